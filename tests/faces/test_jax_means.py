"""``normalizer=`` and ``count`` under JAX's transformations, in compiled programs and on several devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from binxent import kernel
from binxent import numpy as numpy_face
from binxent.jax import BCEWithLogitsLoss, binary_cross_entropy_with_logits, calls, count
from tests import pages, processes

rng = np.random.default_rng(0)
X = rng.normal(0, 3, (6, 5)).astype(np.float32)
Y = rng.random((6, 5)).astype(np.float32)
MASK = rng.random((6, 5)) < 0.7


def loss(x: Any, normalizer: Any) -> jax.Array:
    return binary_cross_entropy_with_logits(x, Y, normalizer=normalizer)


def test_another_number_compiles_nothing() -> None:
    loss(X, 5)
    eager = calls._compute._cache_size()
    step = jax.jit(jax.value_and_grad(loss))
    for number in (7, 7.5, 0, 2**31 + 1):
        loss(X, number)
        step(X, np.float32(number))
    assert calls._compute._cache_size() == eager
    assert step._cache_size() == 1


@pytest.mark.parametrize("number", [7, 0.1, 2**24 + 1, 3_000_000_001, 0])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.jit(jax.checkpoint(f))])
def test_a_number_is_not_rounded_to_float32(number: float, wrap: Callable[..., Any]) -> None:
    """Nor does it overflow: the bits are those of the NumPy face."""
    before = kernel.runs()
    found = jax.block_until_ready(jax.value_and_grad(wrap(lambda x: loss(x, number)))(X))
    assert kernel.runs() > before
    wanted = numpy_face.value_and_grad(X, Y, normalizer=number)
    for ours, numpys in zip(found, wanted, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, numpys)


def test_vmap() -> None:
    """One normalizer for all items, which the kernel reads; or one for each, by the formula."""
    xs = np.stack([X, 2 * X, -X])
    for normalizers in (np.float32(7), np.array([3, 7, 0], np.float32)):
        axis = None if normalizers.ndim == 0 else 0
        found = jax.vmap(jax.value_and_grad(loss), (0, axis))(xs, normalizers)
        numbers = np.broadcast_to(normalizers, 3)
        for k in range(3):
            value, gradient = numpy_face.value_and_grad(xs[k], Y, normalizer=numbers[k])
            np.testing.assert_allclose(found[0][k], value, rtol=3e-7)
            np.testing.assert_allclose(found[1][k], gradient, rtol=1e-6, atol=1e-8)


def test_vmap_of_single_elements() -> None:
    """Each item is one element, and is divided all the same."""
    found = jax.vmap(jax.vmap(lambda x, y: binary_cross_entropy_with_logits(x, y, normalizer=7.0)))(X, Y)
    each = numpy_face.binary_cross_entropy_with_logits(X, Y, reduction="none")
    np.testing.assert_allclose(found, each / np.float32(7), rtol=2e-7)


def test_no_derivative_to_the_normalizer() -> None:
    normalizer = jnp.float32(7)
    assert jax.grad(loss, 1)(X, normalizer) == 0
    assert jax.jvp(lambda n: loss(X, n), (normalizer,), (normalizer,))[1] == 0
    assert not jax.jacrev(jax.grad(loss), 1)(X, normalizer).any()


def test_hessian() -> None:
    x = X[0]
    found = jax.hessian(lambda x: binary_cross_entropy_with_logits(x, Y[0], normalizer=jnp.int32(7)))(x)
    slope = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(found, np.diag(slope * (1 - slope) / 7), rtol=1e-5)


@pytest.mark.parametrize("number", [True, False])
def test_export_with_symbolic_sizes(number: bool) -> None:
    (n,) = export.symbolic_shape("n")
    floats, booleans = jax.ShapeDtypeStruct((n, 5), jnp.float32), jax.ShapeDtypeStruct((n, 5), jnp.bool)

    def mean(x: Any, y: Any, mask: Any) -> Any:
        normalizer = 7 if number else count(y, mask=mask) + count(y) + count(y, reduction="batchmean")
        return binary_cross_entropy_with_logits(x, y, mask=mask, normalizer=normalizer)

    exported = export.export(jax.jit(mean))(floats, floats, booleans)
    wanted = numpy_face.binary_cross_entropy_with_logits(
        X, Y, mask=MASK, normalizer=7 if number else MASK.sum() + 30 + 6
    )
    np.testing.assert_allclose(export.deserialize(exported.serialize()).call(X, Y, MASK), wanted, rtol=3e-7)


def test_a_count_is_traced() -> None:
    loss = BCEWithLogitsLoss(weight=jnp.arange(5.0), reduction="weighted_mean", ignore_index=-100)
    target = np.where(MASK, Y, -100)
    for found in (loss.count(target), jax.jit(lambda loss, y: loss.count(y))(loss, target)):
        assert found == (MASK * np.arange(5)).sum()
    assert jax.grad(lambda w: count(Y, weight=w, reduction="weighted_mean"))(jnp.ones(5)).tolist() == [0] * 5


def test_a_count_is_exact_beyond_float32s_integers() -> None:
    """The sum is made in float64, and only the result is rounded."""
    weight = np.ones(2**24 + 6, np.float32)
    assert count(weight, reduction="weighted_mean", weight=weight) == 2**24 + 6


# Several devices


@pytest.fixture(scope="module")
def facts() -> Any:
    return json.loads(processes.run_module("tests.faces.jax_means"))


@pytest.mark.parametrize("check", ["checked", "unchecked"])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "weighted_mean"])
@pytest.mark.parametrize("ragged", [True, False])
def test_a_psum_of_the_counts_under_shard_map(facts: Any, check: str, reduction: str, ragged: bool) -> None:
    """The mean of means is another number where the masks are ragged."""
    case = facts[f"{check} {reduction} {'ragged' if ragged else 'plain'}"]
    assert case["loss off by"] <= 2
    # Without float64, each device's sum of weights is rounded, and so is their sum.
    assert case["gradient off by"] <= (4 if reduction == "weighted_mean" and ragged else 0)
    assert case["runs"] >= 4, "a device has not run the kernel"
    assert case["mean of means off by"] > 1000 or not ragged or reduction == "batchmean"


@pytest.mark.parametrize("mesh", ["auto", "explicit"])
@pytest.mark.parametrize("normalizer", ["number", "count"])
def test_sharded_arrays(facts: Any, mesh: str, normalizer: str) -> None:
    """The bits of one device; a loss sends one number, and a count another."""
    case = facts[f"{mesh} {normalizer}"]
    assert case["same bits"]
    assert case["sent"] == ["all-reduce f64[]"] * (1 if normalizer == "number" else 2)


def test_the_program_of_the_page() -> None:
    (program,) = pages.blocks(processes.ROOT / "docs" / "means.md", "JAX", "python")
    assert f"# {processes.python(program)}\n" in program
