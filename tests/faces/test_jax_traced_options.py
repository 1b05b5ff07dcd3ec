"""label_smoothing and gamma as operands of a compiled program: values, bits, derivatives, batches, and classes."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binxent import formula, kernel
from binxent import jax as face
from tests.reference import bits
from tests.turns import in_turn

SHAPE = (4, 5)
FUNCTIONS = {False: face.binary_cross_entropy_with_logits, True: face.binary_cross_entropy}
logits_loss = face.binary_cross_entropy_with_logits
both_inputs = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])
REDUCTIONS = ("none", "mean", "sum", "batchmean", "weighted_mean")
X, Y = jnp.array([0.5, -1.0, 2.0]), jnp.array([1.0, 0.0, 1.0])
ALL = (0, 1, 2, 3, 4, 5)  # input, target, weight, pos_weight, label_smoothing, gamma
MASK = np.random.default_rng(5).random(SHAPE) < 0.7


def operands(seed: int = 0, *, probabilities: bool, dtype: Any = np.float64) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.05, 0.95, SHAPE) if probabilities else rng.normal(0, 3, SHAPE)
    arrays = (x, rng.random(SHAPE), rng.uniform(0.5, 2, SHAPE), rng.uniform(1, 2, SHAPE))
    return tuple(jnp.asarray(a, dtype) for a in (*arrays, 0.25, 1.5))


def ours(probabilities: bool, reduction: str, mask: Any = None) -> Callable[..., Any]:
    function = FUNCTIONS[probabilities]

    def loss(x: Any, y: Any, w: Any, p: Any, e: Any, g: Any) -> Any:
        return function(x, y, w, reduction, pos_weight=p, mask=mask, label_smoothing=e, gamma=g)

    return loss


def by_definition(probabilities: bool, reduction: str, mask: Any = None) -> Callable[..., Any]:
    each = formula.probabilities_loss if probabilities else formula.logits_loss

    def loss(x: Any, y: Any, w: Any, p: Any, e: Any, g: Any) -> Any:
        keep = jnp.ones(SHAPE, bool) if mask is None else mask
        losses = jnp.where(keep, each(jnp, x, y, w, p, e, g), 0)
        divisor = {"mean": keep.sum(), "weighted_mean": jnp.where(keep, w, 0).sum(), "batchmean": len(x)}
        return losses if reduction == "none" else losses.sum() / divisor.get(reduction, 1)

    return loss


def assert_alike(actual: Any, wanted: Any, **tolerances: float) -> None:
    given = {"rtol": 1e-9, "atol": 1e-12, **tolerances}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **given), actual, wanted)


def same_bits(actual: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(bits(np.asarray(a)), bits(np.asarray(b))), actual, wanted)


def runs_of(call: Any) -> int:
    before = kernel.runs()
    jax.block_until_ready(call())
    return kernel.runs() - before


# Compilations, values and bits


def test_a_schedule_is_compiled_once() -> None:
    traces: list[int] = []

    @jax.jit
    def step(x: Any, gamma: Any, label_smoothing: Any) -> Any:
        traces.append(1)
        return jax.value_and_grad(logits_loss)(x, Y, gamma=gamma, label_smoothing=label_smoothing)

    for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
        for smoothing in (0.0, 0.125, 1.0):
            wanted = jax.value_and_grad(logits_loss)(X, Y, gamma=gamma, label_smoothing=smoothing)
            same_bits(step(X, gamma, smoothing), wanted)
    assert len(traces) == 1


@both_inputs
@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean"])
@pytest.mark.parametrize("traced", [("gamma",), ("label_smoothing",), ("label_smoothing", "gamma")])
def test_traced_and_static_give_the_same_bits(traced: tuple[str, ...], reduction: str, probabilities: bool) -> None:
    x, y, w, p, e, g = operands(probabilities=probabilities, dtype=np.float32)
    given = {"label_smoothing": float(e), "gamma": float(g)}

    def step(x: Any, scale: Any, numbers: dict[str, Any], static: dict[str, Any]) -> Any:
        function = FUNCTIONS[probabilities]
        loss = lambda x: function(x, y, w, reduction, pos_weight=p, mask=MASK, **static, **numbers)  # noqa: E731
        value, back = jax.vjp(loss, x)
        return value, back(scale * jnp.ones_like(value))

    numbers = {name: given.pop(name) for name in traced}
    program = jax.jit(lambda x, scale, numbers: step(x, scale, numbers, given))
    for scale in (1.0, 3.0):
        same_bits(program(x, scale, numbers), jax.jit(lambda x, s: step(x, s, {}, numbers | given))(x, scale))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
def test_any_number(dtype: str) -> None:
    wanted = logits_loss(X, Y, gamma=2.0)
    for shape in ((), (1,), (1, 1)):
        loss = jax.jit(lambda g: logits_loss(X, Y, gamma=g))
        same_bits(loss(jnp.full(shape, 2, dtype)), wanted)
        with jax.numpy_dtype_promotion("strict"):
            same_bits(
                jax.jit(lambda g: logits_loss(X, Y, gamma=g, label_smoothing=0 * g))(jnp.full(shape, 2, dtype)), wanted
            )


def test_how_often_the_kernel_runs() -> None:
    both = jax.value_and_grad(lambda x, g: logits_loss(x, Y, gamma=g))
    assert runs_of(lambda: jax.jit(both)(X, 2.0)) == 1
    assert runs_of(lambda: jax.jit(jax.grad(lambda x, g: 3 * logits_loss(x, Y, gamma=g)))(X, 2.0)) == 2
    assert runs_of(lambda: jax.jit(jax.grad(lambda g: logits_loss(X, Y, gamma=g)))(2.0)) <= 1
    assert runs_of(lambda: jax.vmap(lambda x, g: logits_loss(x, Y, gamma=g), (0, None))(jnp.stack([X, X]), 2.0)) == 2
    assert runs_of(lambda: jax.vmap(lambda g: logits_loss(X, Y, gamma=g))(jnp.ones(2))) == 0  # one gamma for a call


# Derivatives


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_known_values(wrap: Any) -> None:
    slope = wrap(jax.grad(lambda g: logits_loss(X, Y, reduction="sum", gamma=g)))(2.0)
    np.testing.assert_allclose(slope, -0.099414, atol=1e-6)
    slope = wrap(jax.grad(lambda e: logits_loss(X, Y, reduction="sum", label_smoothing=e)))(0.1)
    np.testing.assert_allclose(slope, 1.75, rtol=1e-6)


@both_inputs
@pytest.mark.parametrize(("reduction", "mask"), in_turn(REDUCTIONS, ways=[None, MASK]))
@pytest.mark.usefixtures("in_float64")
def test_first_derivatives_to_all(reduction: str, mask: Any, probabilities: bool) -> None:
    primals, along = operands(probabilities=probabilities), operands(1, probabilities=probabilities)
    f, g = (make(probabilities, reduction, mask) for make in (ours, by_definition))

    def weighed(f: Any) -> Any:
        return lambda *a: jnp.sum(f(*a) * jnp.cos(jnp.arange(f(*a).size)).reshape(f(*a).shape))

    assert_alike(*(jax.jit(jax.value_and_grad(weighed(h), ALL))(*primals) for h in (f, g)))
    assert_alike(*(jax.jit(lambda a, t, h=h: jax.jvp(h, a, t))(primals, along) for h in (f, g)))


@both_inputs
@pytest.mark.usefixtures("in_float64")
def test_second_derivatives_by_all_pairs(probabilities: bool) -> None:
    primals = operands(probabilities=probabilities)
    assert_alike(*(jax.jit(jax.hessian(f(probabilities, "mean"), ALL))(*primals) for f in (ours, by_definition)))


@pytest.mark.parametrize("x", [0.0, 200.0, -200.0, math.inf, -math.inf])
@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_finite_in_the_tails(gamma: float, y: float, x: float) -> None:
    slope = jax.jit(jax.grad(lambda g: logits_loss(jnp.float32(x), jnp.float32(y), gamma=g)))(gamma)
    np.testing.assert_allclose(slope, -(math.log(2) ** 2) * 0.5**gamma if x == 0 else 0, rtol=1e-6, atol=1e-30)


# Batches


@pytest.mark.parametrize(
    ("batched", "reduction", "probabilities"),
    [
        ("gamma", "weighted_mean", False),
        ("label_smoothing", "none", False),
        ("all", "weighted_mean", False),
        ("gamma", "none", True),
        ("label_smoothing", "weighted_mean", True),
        ("all", "none", True),
    ],
)
@pytest.mark.usefixtures("in_float64")
def test_vmap_of_all_and_all_of_vmap(batched: str, reduction: str, probabilities: bool) -> None:
    batch = [operands(seed, probabilities=probabilities) for seed in range(3)]
    batch = [(*items[:4], items[4] / (1 + k), items[5] * k) for k, items in enumerate(batch)]
    which = {"gamma": (5,), "label_smoothing": (4,), "all": ALL}[batched]
    axes = tuple(0 if k in which else None for k in ALL)
    arguments = [jnp.stack([items[k] for items in batch]) if k in which else batch[1][k] for k in ALL]

    def slopes(f: Any) -> Any:
        return jax.grad(lambda *a: jnp.sin(f(*a)).sum(), ALL)

    for transform in (
        lambda f: slopes(jax.vmap(f, axes)),
        lambda f: jax.vmap(slopes(f), axes),
        lambda f: jax.vmap(lambda *a: jax.jvp(f, a, a), axes),
    ):
        assert_alike(*(jax.jit(transform(f(probabilities, reduction)))(*arguments) for f in (ours, by_definition)))


def test_inside_a_scan_and_a_shard_map() -> None:
    gammas = jnp.array([0.0, 1.0, 2.0])
    wanted = jnp.stack([logits_loss(X, Y, gamma=float(g)) for g in gammas])
    actual = jax.lax.scan(lambda x, g: (x, logits_loss(x, Y, gamma=g)), X, gammas)[1]
    same_bits(actual, wanted)
    mesh, spec = jax.sharding.Mesh(jax.devices()[:1], ("i",)), jax.sharding.PartitionSpec
    both = jax.grad(lambda x, g: logits_loss(x, Y, gamma=g), (0, 1))
    mapped = jax.shard_map(both, mesh=mesh, in_specs=(spec("i"), spec()), out_specs=(spec("i"), spec()))
    assert_alike(jax.jit(mapped)(X, 2.0), both(X, 2.0), rtol=1e-6)


# What is refused


OUT_OF_RANGE = [("gamma", -1.0), ("gamma", math.inf), ("gamma", math.nan)]
OUT_OF_RANGE += [("label_smoothing", -0.1), ("label_smoothing", 1.1), ("label_smoothing", math.nan)]


@both_inputs
@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_out_of_range(name: str, value: float, probabilities: bool) -> None:
    """Refused where the value is at hand; else NaN, on the kernel and by the formula."""
    x, y = (jax.nn.sigmoid(X) if probabilities else X), Y

    def loss(number: Any, x: Any = x) -> Any:
        return FUNCTIONS[probabilities](x, y, **{name: number})

    with pytest.raises(ValueError, match=rf"{name}: {value}; expected a"):
        jax.grad(loss)(value)
    for wrap in (jax.jit, lambda f: lambda number, *rest: jax.vmap(f, (0, None))(jnp.array([number, number]), *rest)):
        assert np.isnan(wrap(loss)(value, x)).all()
        assert np.isnan(wrap(jax.grad(loss, 1))(value, x)).all()
    assert np.isfinite(jax.vmap(loss)(jnp.array([0.5, value]))[0])


@pytest.mark.parametrize("name", ["label_smoothing", "gamma"])
def test_no_number(name: str) -> None:
    loss = jax.jit(lambda value: logits_loss(X, Y, **{name: value}))
    for value, given in ((jnp.ones(3), r"float32 of shape \(3,\)"), (True, "bool of shape")):
        with pytest.raises(TypeError, match=f"{name}: expected a number, got {given}"):
            loss(value)
    with pytest.raises(TypeError, match=f"{name}: dtype complex64 is not supported"):
        loss(1j)


# The classes


@pytest.mark.parametrize("cls", [face.BCEWithLogitsLoss, face.BCELoss])
def test_an_array_is_a_leaf_and_learns(cls: Any) -> None:
    x = X if cls is face.BCEWithLogitsLoss else jax.nn.sigmoid(X)
    loss = cls(pos_weight=jnp.array([3.0]), label_smoothing=0.25, gamma=jnp.float32(2))
    plain = cls(pos_weight=jnp.array([3.0]), label_smoothing=0.25, gamma=2.0)
    assert repr(loss) == f"{cls.__name__}(pos_weight=float32[1], label_smoothing=0.25, gamma=float32[])"
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(loss)] == [".pos_weight", ".gamma"]
    slope = jax.jit(jax.grad(lambda loss: loss(x, Y)))(loss)
    assert jax.tree.structure(slope) == jax.tree.structure(loss)
    wanted = jax.grad(lambda g: cls(pos_weight=jnp.array([3.0]), label_smoothing=0.25, gamma=g)(x, Y))(jnp.float32(2))
    assert_alike(slope.gamma, wanted, rtol=1e-6)
    copies = (copy.copy(loss), pickle.loads(pickle.dumps(loss)), jax.tree.map(lambda a: a, loss))
    for same in (loss, *copies):
        same_bits(same(x, Y), plain(x, Y))
        same_bits(jax.jit(lambda loss: loss(x, Y))(same), plain(x, Y))
    abstract = jax.eval_shape(lambda: loss)
    assert jax.tree.structure(abstract) == jax.tree.structure(loss)


def test_a_class_made_in_a_trace() -> None:
    loss = jax.jit(lambda g: face.BCEWithLogitsLoss(gamma=g)(X, Y))
    same_bits(loss(2.0), logits_loss(X, Y, gamma=2.0))
