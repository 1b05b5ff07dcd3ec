"""The JAX face under every transformation: against JAX's own derivatives of the definition, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binxent import formula
from binxent import jax as face
from tests.turns import in_turn

ALL = (0, 1, 2, 3, 4)  # input, target, weight, pos_weight, sample_weight
REDUCTIONS = ("none", "mean", "sum")
both_inputs = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
any_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
eager_and_jit = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
pytestmark = pytest.mark.usefixtures("in_float64")


def operands(seed: int = 0, *, probabilities: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.05, 0.95, (3, 4)) if probabilities else rng.normal(0, 3, (3, 4))
    return tuple(map(jnp.asarray, (x, rng.random((3, 4)), rng.random(4), rng.uniform(1, 2, 4), rng.random(3))))


def ours(probabilities: bool, reduction: str = "mean") -> Callable[..., Any]:
    function = face.binary_cross_entropy if probabilities else face.binary_cross_entropy_with_logits
    return lambda x, y, w, p, s: function(x, y, w, reduction, pos_weight=p, sample_weight=s)


def definition(probabilities: bool, reduction: str = "mean") -> Callable[..., Any]:
    each = formula.probabilities_loss if probabilities else formula.logits_loss
    reduce = {"none": lambda a: a, "mean": jnp.mean, "sum": jnp.sum}[reduction]
    return lambda x, y, w, p, s: reduce(each(jnp, x, y, w * s[:, None], p))


def assert_alike(actual: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), actual, wanted)


@both_inputs
@any_reduction
def test_forward_mode_along_each_operand_and_all(reduction: str, probabilities: bool) -> None:
    primals = operands(probabilities=probabilities)
    along = operands(1, probabilities=probabilities)
    for chosen in [*((k,) for k in ALL), ALL]:
        tangents = tuple(t if k in chosen else jnp.zeros_like(t) for k, t in enumerate(along))
        actual, wanted = (jax.jvp(f(probabilities, reduction), primals, tangents) for f in (ours, definition))
        assert_alike(actual, wanted)
        assert np.abs(actual[1]).max() > 1e-3, "no tangent was lost, but there was none to lose"


@both_inputs
@any_reduction
@eager_and_jit
def test_reverse_mode_to_all(wrap: Any, reduction: str, probabilities: bool) -> None:
    primals = operands(probabilities=probabilities)
    actual, wanted = (wrap(jax.jacrev(f(probabilities, reduction), ALL))(*primals) for f in (ours, definition))
    assert_alike(actual, wanted)


@both_inputs
@pytest.mark.parametrize(
    ("outer", "inner", "reduction"),
    [
        (jax.jacfwd, jax.jacfwd, "mean"),
        (jax.jacfwd, jax.jacrev, "mean"),
        (jax.jacrev, jax.jacfwd, "mean"),
        (jax.jacrev, jax.jacrev, "mean"),
        (jax.jacfwd, jax.jacrev, "none"),
        (jax.jacrev, jax.jacrev, "none"),
    ],
)
def test_second_derivatives_by_all_pairs(outer: Any, inner: Any, reduction: str, probabilities: bool) -> None:
    primals = operands(probabilities=probabilities)
    actual, wanted = (
        jax.jit(outer(inner(f(probabilities, reduction), ALL), ALL))(*primals) for f in (ours, definition)
    )
    assert_alike(actual, wanted)


@both_inputs
def test_third_derivatives(probabilities: bool) -> None:
    primals = operands(probabilities=probabilities)

    def along_a_line(f: Any) -> Any:
        moved = lambda t: f(probabilities)(primals[0] * (1 + t), primals[1] + t, *(a * (1 + t) for a in primals[2:]))  # noqa: E731
        return jax.jit(jax.grad(jax.grad(jax.grad(moved))))(0.0)

    assert_alike(along_a_line(ours), along_a_line(definition))


@pytest.mark.parametrize("x", [0.0, 1e-300, -1e-300, 40.0, -40.0, 700.0])
def test_the_hessian_is_exact_at_0_and_in_the_tails(x: float) -> None:
    loss = face.binary_cross_entropy_with_logits
    for y in (0.0, 1.0, 0.3):
        actual = jax.hessian(loss)(jnp.float64(x), jnp.float64(y))
        np.testing.assert_allclose(actual, formula.logits_curvature(np, np.float64(x), y), rtol=1e-14)
        np.testing.assert_allclose(jax.grad(loss, 1)(x, y), -x, rtol=1e-15)
        focal = jax.hessian(functools.partial(loss, gamma=2.0))(jnp.float64(x), jnp.float64(y))
        wanted = formula.logits_curvature(np, np.float64(x), y, gamma=2.0)
        np.testing.assert_allclose(focal, wanted, rtol=1e-12)


BATCHED = {
    "input and target": (0, 0, None, None, None),
    "input": (1, None, None, None, None),
    "target": (None, 0, None, None, None),
    "pos_weight": (None, None, None, 0, None),
    "input and weights": (2, None, 0, 1, 0),
}


@pytest.mark.parametrize(("name", "way"), in_turn([*BATCHED], ways=[("none", False), ("mean", True)]))
def test_vmap_of_all_and_all_of_vmap(name: str, way: tuple[str, bool]) -> None:
    reduction, probabilities = way
    axes = BATCHED[name]
    batch = [operands(seed, probabilities=probabilities) for seed in range(5)]
    arguments = [batch[0][k] if axis is None else jnp.stack([b[k] for b in batch], axis) for k, axis in enumerate(axes)]

    def combined(f: Any) -> Any:
        def scalar(*a: Any) -> Any:
            losses = f(*a)
            return jnp.sum(losses * (1 + jnp.arange(losses.size)).reshape(losses.shape))

        return jax.grad(scalar, ALL)

    for transform in (
        lambda f: jax.vmap(f, axes),
        lambda f: combined(jax.vmap(f, axes)),
        lambda f: jax.vmap(combined(f), axes),
        lambda f: jax.vmap(lambda *a: jax.jvp(f, a, a), axes),
    ):
        actual, wanted = (jax.jit(transform(f(probabilities, reduction)))(*arguments) for f in (ours, definition))
        assert_alike(actual, wanted)
    assert_alike(
        jax.vmap(ours(probabilities, reduction), axes)(*arguments),
        jax.vmap(definition(probabilities, reduction), axes)(*arguments),
    )


@both_inputs
def test_vmap_of_the_hessian(probabilities: bool) -> None:
    x, y, *rest = operands(probabilities=probabilities)
    batched = [
        jax.jit(jax.vmap(jax.hessian(lambda x, y, f=f: f(probabilities)(x, y, *rest)), (0, None)))(
            jnp.stack([x, x / 2]), y
        )
        for f in (ours, definition)
    ]
    assert_alike(*batched)


def test_nested_vmap() -> None:
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(3, 4, 5, 6))), jnp.asarray(rng.random((3, 6, 4, 5)))
    loss = face.binary_cross_entropy_with_logits
    nested = jax.vmap(jax.vmap(lambda x, y: loss(x, y.T), (0, 1)))
    wanted = [[loss(x[i, j], y[i, :, j].T) for j in range(4)] for i in range(3)]
    assert_alike(nested(x, y), jnp.asarray(wanted))
    assert_alike(jax.grad(lambda x: nested(x, y).sum())(x)[1, 2], jax.grad(loss)(x[1, 2], y[1, :, 2].T))


@pytest.mark.parametrize("items", [(100, 10), (3, 40_000), (2, 70_000)])
def test_a_batch_gives_the_bits_of_its_items(items: tuple[int, int]) -> None:
    """Many small items in one thread's share, some, and items that are themselves shared out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 4, items).astype(np.float32), rng.random(items).astype(np.float32)
    both = jax.value_and_grad(face.binary_cross_entropy_with_logits)
    losses, gradients = jax.jit(jax.vmap(both))(x, y)
    for k in (0, items[0] // 2, items[0] - 1):
        loss, gradient = both(x[k], y[k])
        np.testing.assert_array_equal(losses[k], loss)
        np.testing.assert_array_equal(gradients[k], gradient)


def test_the_gradient_is_linear_and_can_be_transposed_again() -> None:
    x, y, *_ = operands(probabilities=False)
    loss = face.binary_cross_entropy_with_logits
    forward = lambda t: jax.jvp(lambda x: loss(x, y), (x,), (t,))[1]  # noqa: E731
    back = jax.linear_transpose(forward, x)
    assert_alike(back(1.0)[0], jax.grad(loss)(x, y))
    again = jax.linear_transpose(lambda c: back(c)[0], 1.0)
    assert_alike(again(x)[0], forward(x))


@eager_and_jit
def test_checkpoint_scan_and_a_custom_rule_around_it(wrap: Any) -> None:
    x, y, *_ = operands(probabilities=False)
    loss = face.binary_cross_entropy_with_logits
    wanted = jax.grad(loss)(x, y)
    assert_alike(wrap(jax.grad(jax.checkpoint(loss)))(x, y), wanted)

    def in_a_scan(x: Any) -> Any:
        return jax.lax.scan(lambda total, row: (total + loss(*row), None), 0.0, (x, y))[0] / len(x)

    assert_alike(wrap(jax.grad(in_a_scan))(x), wanted)

    def in_a_branch(x: Any) -> Any:
        return jax.lax.cond(x.sum() > 1e9, lambda x: 0.0, lambda x: loss(x, y), x)

    assert_alike(wrap(jax.grad(in_a_branch))(x), wanted)


def test_one_backward_may_be_called_twice() -> None:
    x, y, *_ = operands(probabilities=False)
    loss = face.binary_cross_entropy_with_logits

    def twice(x: Any) -> Any:
        _, back = jax.vjp(lambda x: loss(x, y), x)
        return back(1.0)[0], back(3.0)[0], back(1.0)[0]

    for first, second, third in (twice(x), jax.jit(twice)(x)):
        np.testing.assert_array_equal(first, third)
        np.testing.assert_array_equal(first, jax.grad(loss)(x, y))
        assert_alike(second, 3 * first)
