from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binxent.jax import BCEWithLogitsLoss
from tests.recipes import page


def test_the_switch() -> None:
    ours = page.check_switch("Flax", rtol=1e-4)
    assert ours.kernel_runs == len(ours.losses) == 20  # loss and gradient in one pass


def test_a_loss_that_a_module_keeps() -> None:
    line = page.sides(page.blocks("Flax", "diff")[1])[1]

    class Classifier(nnx.Module):
        def __init__(self, code: str) -> None:
            self.linear = nnx.Linear(20, 5, rngs=nnx.Rngs(0))
            exec(code, {"self": self, "nnx": nnx, "jnp": jnp, "BCEWithLogitsLoss": BCEWithLogitsLoss})

        def __call__(self, inputs: jax.Array, targets: jax.Array) -> jax.Array:
            return self.loss(self.linear(inputs), targets)

    with pytest.raises(ValueError, match=r"nnx\.data"):  # what the page says of Flax
        Classifier(line.replace("nnx.data", ""))
    model, (inputs, targets) = Classifier(line), (jnp.ones((4, 20)), jnp.ones((4, 5)))
    loss, gradients = nnx.jit(nnx.value_and_grad(lambda model: model(inputs, targets)))(model)
    wanted = BCEWithLogitsLoss(pos_weight=jnp.full(5, 3.0))(model.linear(inputs), targets)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert np.abs(gradients["linear"]["kernel"][...]).max() > 0
