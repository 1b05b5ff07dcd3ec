"""The focal family, checked targets and means along axes in JAX: under jit and vmap, traced, in pytrees and heads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binxent import IndexTargets
from binxent import numpy as numpy_face
from binxent.jax import (
    BCEWithLogitsLoss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    linear_binary_cross_entropy_with_logits,
)
from tests.wrong_places import every_operand, every_place, wrong_operand

rng = np.random.default_rng(0)
X = rng.normal(0, 3, (6, 5)).astype(np.float32)
Y = (rng.random((6, 5)) < 0.4).astype(np.float32)
ASL: dict[str, Any] = {"gamma_positive": 1.0, "gamma_negative": 4.0, "margin": 0.05}


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        jax.block_until_ready(function(*arguments))
    return str(caught.value)


@pytest.mark.parametrize("reduction", ["mean", "none", "per_label"])
@pytest.mark.parametrize("differentiate", [False, True])
def test_a_compiled_program_refuses_wrong_targets(reduction: str, differentiate: bool) -> None:
    def loss(x: Any, y: Any) -> Any:
        return binary_cross_entropy_with_logits(x, y, reduction=reduction, check_targets=True).sum()

    program = jax.jit(jax.value_and_grad(loss) if differentiate else loss)
    jax.block_until_ready(program(X, Y))
    wrong = Y.copy()
    wrong[4, 2] = 255
    assert "target: target[4, 2] is 255; expected a number between 0 and 1" in refusal(program, X, wrong)
    jax.block_until_ready(program(X, Y))


@every_place
@every_operand
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("differentiate", [False, True])
def test_the_index_is_that_of_the_operand(differentiate: bool, reduction: str, name: str, place: str) -> None:
    """And not that of the input, to whose shape it is broadcast."""
    shape, operand, message = wrong_operand(name, place)

    def loss(x: Any, operand: Any) -> Any:
        given = {"target": jnp.ones(shape), name: operand}
        return binary_cross_entropy_with_logits(x, reduction=reduction, check_targets=True, **given).sum()

    program = jax.jit(jax.grad(loss) if differentiate else loss)
    assert message in refusal(program, np.zeros(shape, np.float32), operand)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_index_under_vmap_is_that_of_an_item(reduction: str) -> None:
    def loss(x: Any, p: Any) -> Any:
        return binary_cross_entropy_with_logits(x, jnp.ones(3), reduction=reduction, pos_weight=p, check_targets=True)

    x, p = np.zeros((300, 3), np.float32), np.ones((300, 3), np.float32)
    p[250, 1] = -1
    assert "pos_weight: pos_weight[1] is -1" in refusal(jax.jit(jax.vmap(loss)), x, p)
    each = jax.jit(jax.vmap(loss, (0, None)))
    assert "pos_weight: pos_weight[1] is -1" in refusal(each, x, p[250])


def test_every_item_of_a_batch_is_checked() -> None:
    batched = jax.jit(jax.vmap(lambda x, y: binary_cross_entropy_with_logits(x, y, check_targets=True)))
    x, y = np.zeros((300, 7), np.float32), np.zeros((300, 7), np.float32)
    batched(x, y)
    y[250, 3] = -1
    assert "target: target[3] is -1" in refusal(batched, x, y)


def test_outside_of_programs_it_is_a_value_error() -> None:
    wrong = Y.copy()
    wrong[4, 2] = 2
    for function in (binary_cross_entropy_with_logits, jax.grad(binary_cross_entropy_with_logits)):
        with pytest.raises(ValueError, match=r"target\[4, 2\] is 2\.0; .*class indices"):
            function(X, wrong, check_targets=True)
    with pytest.raises(ValueError, match=r"pos_weight\[3\] is -1\.0"):
        binary_cross_entropy_with_logits(X, Y, pos_weight=jnp.array([1, 1, 1, -1, 1.0]), check_targets=True)
    with pytest.raises(ValueError, match="input"):
        binary_cross_entropy(X, Y, check_targets=True)


def test_without_a_kernel_the_loss_is_nan() -> None:
    """A gamma for each item of a batch is computed by the definition."""
    wrong = Y.copy()
    wrong[0, 0] = 2
    losses = jax.jit(jax.vmap(lambda g: binary_cross_entropy_with_logits(X, wrong, gamma=g, check_targets=True)))
    assert np.isnan(losses(jnp.array([0.0, 2.0]))).all()


def test_traced_gammas() -> None:
    loss = jax.jit(lambda g: binary_cross_entropy_with_logits(X, Y, gamma=g, margin=0.1, alpha=0.3))
    exact = numpy_face.binary_cross_entropy_with_logits(X, Y, gamma=1.5, margin=0.1, alpha=0.3)
    np.testing.assert_allclose(loss(1.5), exact, rtol=1e-6)
    step = (loss(1.501) - loss(1.499)) / 0.002
    np.testing.assert_allclose(jax.grad(loss)(1.5), step, rtol=1e-2)
    with pytest.raises(ValueError, match="gamma_negative: and gamma are given"):
        jax.jit(lambda g: binary_cross_entropy_with_logits(X, Y, gamma=g, gamma_negative=2.0))(1.0)


def test_its_numbers_are_static_and_its_weights_are_leaves() -> None:
    loss = BCEWithLogitsLoss(neg_weight=jnp.full(5, 0.5), alpha=0.25, **ASL)
    assert [leaf.shape for leaf in jax.tree.leaves(loss)] == [(5,)]
    again = jax.tree.unflatten(jax.tree.structure(loss), jax.tree.leaves(loss))
    assert repr(again) == repr(loss)
    assert "neg_weight=float32[5], alpha=0.25, gamma_positive=1.0, gamma_negative=4.0, margin=0.05" in repr(loss)
    exact = numpy_face.binary_cross_entropy_with_logits(X, Y, neg_weight=np.full(5, 0.5), alpha=0.25, **ASL)
    np.testing.assert_allclose(jax.jit(lambda loss, x, y: loss(x, y))(loss, X, Y), exact, rtol=1e-6)


@pytest.mark.parametrize("options", [ASL, {"focal": "p_t", "gamma": 2.0}, {"alpha": 0.2}], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "per_sample", "per_label"])
def test_sparse_targets_have_the_same_bits(reduction: str, options: dict[str, Any]) -> None:
    sparse = IndexTargets(np.argmax(Y, 1)[:, None])
    dense = np.eye(5, dtype=np.float32)[np.argmax(Y, 1)]
    options = {**options, "reduction": reduction, "neg_weight": jnp.full((5,), 0.5)}

    def both(target: Any) -> Any:
        return jax.value_and_grad(lambda x: binary_cross_entropy_with_logits(x, target, **options).sum())(X)

    for found, wanted in zip(both(sparse), both(dense), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("options", [ASL, {"focal": "p_t", "gamma": 2.0, "alpha": 0.3}, {"alpha": 0.2}], ids=str)
def test_the_linear_head(options: dict[str, Any]) -> None:
    w = rng.normal(0, 1, (5, 3)).astype(np.float32)
    x = rng.normal(0, 1, (6, 3)).astype(np.float32)
    options = {**options, "neg_weight": np.linspace(0.5, 2, 5, dtype=np.float32)}
    found, slope = jax.jit(jax.value_and_grad(lambda w: linear_binary_cross_entropy_with_logits(x, w, Y, **options)))(w)
    exact, wanted = jax.value_and_grad(lambda w: binary_cross_entropy_with_logits(x @ w.T, Y, **options))(w)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="reduction: 'per_label' of a linear head"):
        linear_binary_cross_entropy_with_logits(x, w, Y, reduction="per_label")


def test_means_along_axes_keep_nothing_where_all_is_ignored() -> None:
    mask = np.ones((6, 5), bool)
    mask[:, 3] = False
    loss = binary_cross_entropy_with_logits(jnp.where(mask, X, jnp.nan), Y, reduction="per_label", mask=mask)
    assert loss.shape == (5,)
    assert float(loss[3]) == 0
    slope = jax.grad(lambda x: binary_cross_entropy_with_logits(x, Y, reduction="per_label", mask=mask).sum())(
        jnp.where(mask, X, jnp.nan)
    )
    assert not np.isnan(slope).any()
    with pytest.raises(ValueError, match="normalizer: reduction='per_label' divides by what it keeps"):
        binary_cross_entropy_with_logits(X, Y, reduction="per_label", normalizer=3)
