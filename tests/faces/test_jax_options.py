"""The JAX face's options: every derivative under every transformation, bits, batches, and what is static."""

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

from binxent import formula, kernel, options
from binxent import jax as face
from binxent import numpy as numpy_face
from binxent.call import plan as planned
from binxent.formula import LOGITS, PROBABILITIES
from binxent.jax import program, untaped
from binxent.jax.calls import _compute
from tests import kernel_calls
from tests.reference import DTYPES, Array, bits
from tests.turns import in_turn

ALL = (0, 1, 2, 3, 4)  # input, target, weight, pos_weight, sample_weight
SHAPE = (4, 5)
FUNCTIONS = {False: face.binary_cross_entropy_with_logits, True: face.binary_cross_entropy}
logits_loss = face.binary_cross_entropy_with_logits
both_inputs = pytest.mark.parametrize("probabilities", [False, True], ids=["logits", "probabilities"])

MASK = np.random.default_rng(5).random(SHAPE) < 0.7
IGNORED = np.random.default_rng(6).random(SHAPE) < 0.3
CHOICES: dict[str, dict[str, Any]] = {
    "mask": {"mask": MASK},
    "a mask of columns": {"mask": np.array([1, 0, 1, 1, 0], np.float32)},
    "ignore_index": {"ignore_index": -100},
    "NaN ignored": {"ignore_index": math.nan},
    "label_smoothing": {"label_smoothing": 0.2},
    "gamma": {"gamma": 1.5},
    "all": {"mask": MASK, "ignore_index": -100, "label_smoothing": 0.2, "gamma": 1.5},
}
any_choice = pytest.mark.parametrize("choice", CHOICES)


def hidden(chosen: dict[str, Any]) -> Array:
    ignored = IGNORED if "ignore_index" in chosen else np.zeros(SHAPE, bool)
    return ignored | ~np.broadcast_to(chosen.get("mask", True) != 0, SHAPE)


def operands(chosen: dict[str, Any], seed: int = 0, *, probabilities: bool, spoiled: bool = True) -> tuple[Any, ...]:
    """Of one shape, but for sample_weight; where nobody looks there is what would spoil every sum."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.05, 0.95, SHAPE) if probabilities else rng.normal(0, 3, SHAPE)
    y, w, p, s = rng.random(SHAPE), rng.uniform(0.5, 2, SHAPE), rng.uniform(1, 2, SHAPE), rng.uniform(0.5, 2, SHAPE[0])
    if spoiled:
        unseen = hidden(chosen)
        x, w, p = (np.where(unseen, rng.choice([np.nan, np.inf, -np.inf, 7], SHAPE), a) for a in (x, w, p))
        y = np.where(unseen, np.nan, y)
    if "ignore_index" in chosen:
        y = np.where(IGNORED, chosen["ignore_index"], y)
    return tuple(map(jnp.asarray, (x, y, w, p, s)))


def ours(chosen: dict[str, Any], probabilities: bool, reduction: str) -> Callable[..., Any]:
    function = FUNCTIONS[probabilities]
    return lambda x, y, w, p, s: function(x, y, w, reduction, pos_weight=p, sample_weight=s, **chosen)


def by_definition(chosen: dict[str, Any], probabilities: bool, reduction: str) -> Callable[..., Any]:
    each = formula.probabilities_loss if probabilities else formula.logits_loss
    numbers = (chosen.get("label_smoothing", 0.0), chosen.get("gamma", 0.0))

    def loss(x: Any, y: Any, w: Any, p: Any, s: Any) -> Any:
        keep = ~hidden(chosen)
        x, y, w, p = (jnp.where(keep, a, 0.5) for a in (x, y, w, p))
        w *= s[:, None]
        losses = jnp.where(keep, each(jnp, x, y, w, p, *numbers), 0)
        divisor = {"mean": keep.sum(), "weighted_mean": jnp.where(keep, w, 0).sum(), "batchmean": len(x)}
        return losses if reduction == "none" else losses.sum() / divisor.get(reduction, 1)

    return loss


def assert_alike(actual: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), actual, wanted)


def same_bits(actual: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(bits(np.asarray(actual)), bits(np.asarray(wanted)))


# Derivatives


@pytest.mark.parametrize(
    ("choice", "reduction", "probabilities"), in_turn([*CHOICES], ["none", "mean", "weighted_mean"], ways=[False, True])
)
@pytest.mark.usefixtures("in_float64")
def test_first_derivatives_to_all(choice: str, reduction: str, probabilities: bool) -> None:
    chosen = CHOICES[choice]
    primals = operands(chosen, probabilities=probabilities)
    along = operands(chosen, 1, probabilities=probabilities)
    calm = operands(chosen, 1, probabilities=probabilities, spoiled=False)
    f, g = (make(chosen, probabilities, reduction) for make in (ours, by_definition))

    def weighed(f: Any) -> Any:
        return lambda *a: jnp.sum(f(*a) * jnp.cos(jnp.arange(f(*a).size)).reshape(f(*a).shape))

    actual, wanted = (jax.jit(jax.value_and_grad(weighed(h), ALL))(*primals) for h in (f, g))
    assert_alike(actual, wanted)
    for gradient in actual[1][:4]:
        np.testing.assert_array_equal(np.asarray(gradient)[hidden(chosen)], 0)
    assert_alike(jax.jvp(f, primals, along), jax.jvp(g, primals, calm))  # nor does a tangent come from there


@both_inputs
@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
@pytest.mark.usefixtures("in_float64")
def test_the_other_reductions(reduction: str, probabilities: bool) -> None:
    primals = operands(CHOICES["all"], probabilities=probabilities)
    f, g = (make(CHOICES["all"], probabilities, reduction) for make in (ours, by_definition))
    assert_alike(jax.value_and_grad(f, ALL)(*primals), jax.value_and_grad(g, ALL)(*primals))


@both_inputs
@pytest.mark.parametrize("choice", ["mask", "gamma", "all"])
@pytest.mark.usefixtures("in_float64")
def test_second_derivatives_by_all_pairs(choice: str, probabilities: bool) -> None:
    chosen = CHOICES[choice]
    primals = operands(chosen, probabilities=probabilities)
    actual, wanted = (
        jax.jit(jax.hessian(make(chosen, probabilities, "weighted_mean"), ALL))(*primals)
        for make in (ours, by_definition)
    )
    assert_alike(actual, wanted)


@pytest.mark.parametrize("outer", [jax.jacrev, jax.jacfwd])
@pytest.mark.usefixtures("in_float64")
def test_the_transposes_are_transposes(outer: Any) -> None:
    chosen = CHOICES["all"]
    x, *rest = operands(chosen, probabilities=False)
    f, g = (make(chosen, False, "weighted_mean") for make in (ours, by_definition))
    assert_alike(*(jax.jit(outer(jax.grad(lambda x, h=h: h(x, *rest))))(x) for h in (f, g)))
    back = jax.linear_transpose(lambda t: jax.jvp(lambda x: f(x, *rest), (x,), (t,))[1], x)
    assert_alike(back(1.0)[0], jax.grad(f)(x, *rest))
    again = jax.linear_transpose(lambda c: back(c)[0], 1.0)
    calm = jnp.nan_to_num(x)
    assert_alike(again(x)[0], jax.jvp(lambda x: g(x, *rest), (x,), (calm,))[1])


@pytest.mark.usefixtures("in_float64")
def test_a_float_mask_has_a_derivative_of_0() -> None:
    x, y, *_ = operands({}, probabilities=False)
    value, slope = jax.value_and_grad(lambda m: logits_loss(x, y, mask=m))(jnp.asarray(MASK, jnp.float64))
    assert_alike(value, logits_loss(x, y, mask=MASK))
    np.testing.assert_array_equal(slope, np.zeros(SHAPE))
    _, tangent = jax.jvp(lambda x, m: logits_loss(x, y, mask=m), (x, 1.0 * MASK), (x, x))
    assert_alike(tangent, jax.jvp(lambda x: logits_loss(x, y, mask=MASK), (x,), (x,))[1])


DTYPE_PAIRS = [("float32", mask) for mask in kernel.TAGS] + [(target, "bool") for target in kernel.TAGS]


@pytest.mark.parametrize(("dtypes", "probabilities"), in_turn([*DTYPE_PAIRS, ("float32", None)], ways=[False, True]))
@pytest.mark.usefixtures("in_float64")
def test_under_strict_promotion(dtypes: tuple[str, str | None], probabilities: bool) -> None:
    target, mask = dtypes
    """No option makes JAX promote; only a target of another floating dtype than the input's does."""
    x = jnp.full(4, 0.25, target if target in kernel.FLOATING else "float32")
    y, w = jnp.array([0, 1, 1, 0]).astype(target), jnp.ones(4)
    chosen: dict[str, Any] = {"ignore_index": 0, "label_smoothing": 0.1, "gamma": 2.0, "reduction": "weighted_mean"}
    if mask is not None:
        chosen["mask"] = jnp.array([1, 0, 1, 1]).astype(mask)

    def loss(x: Any, w: Any) -> Any:
        return FUNCTIONS[probabilities](x, y, w, **chosen)

    wanted = jax.value_and_grad(loss, (0, 1))(x, w)
    with jax.numpy_dtype_promotion("strict"):
        jax.tree.map(same_bits, jax.value_and_grad(loss, (0, 1))(x, w), wanted)
        jax.eval_shape(jax.hessian(loss), x, w)


# Bits: one program, batches, other incoming gradients


def arrays(dtype: str, shape: tuple[int, ...], *, probabilities: bool) -> tuple[Array, Array, dict[str, Any]]:
    rng = np.random.default_rng(len(shape))
    x = rng.random(shape) if probabilities else rng.normal(0, 4, shape)
    y = np.where(rng.random(shape) < 0.2, -100, rng.random(shape))
    given = {
        "weight": rng.random(shape[-1:]).astype(np.float32),
        "mask": rng.random(shape) < 0.7,
        "ignore_index": -100,
        "label_smoothing": 0.1,
    }
    x = np.where(given["mask"] & (y != -100), x, np.nan)
    return x.astype(DTYPES[dtype]), y.astype(DTYPES[dtype]), given


@both_inputs
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batchmean"])
@pytest.mark.parametrize("shape", [(9,), (40, 300), (3, 5, 4), (70, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_program_gives_the_bits_of_numpy(
    dtype: str, shape: tuple[int, ...], reduction: str, probabilities: bool
) -> None:
    """Loss and gradient of one jitted program, where the gradient is made along with the loss."""
    x, y, given = arrays(dtype, shape, probabilities=probabilities)

    def loss(x: Any, scale: Any) -> Any:
        return scale * FUNCTIONS[probabilities](x, y, reduction=reduction, **given)

    value, gradient = jax.jit(jax.value_and_grad(loss))(x, jnp.ones((), x.dtype))
    wanted = numpy_face.value_and_grad(x, y, reduction=reduction, probabilities=probabilities, **given)
    same_bits(value, wanted[0])
    same_bits(gradient, wanted[1])

    divisor = {"mean": "kept", "weighted_mean": "weights", "batchmean": 1.0}[reduction]
    scaled = np.empty_like(x)
    kernel_calls.compute(
        x, y, given["weight"], mask=given["mask"], terms=options.Terms(-100, 0.1), probabilities=probabilities,
        gradient=scaled, divisor=divisor, incoming=3.0 / (shape[0] if reduction == "batchmean" else 1),
    )  # fmt: skip
    same_bits(jax.jit(jax.grad(loss))(x, jnp.asarray(3, x.dtype)), scaled)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "none", "batchmean"])
@pytest.mark.parametrize("items", [(100, 10), (3, 2, 30_000), (2, 70_000)])
def test_each_item_of_a_batch_is_divided_by_its_own(items: tuple[int, ...], reduction: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 4, items).astype(np.float32), rng.random(items).astype(np.float32)
    mask = rng.random(items) < rng.random((items[0],) + (1,) * (len(items) - 1))
    mask[1] = False
    weight = rng.random(items[:1] + items[-1:]).astype(np.float32)
    scale = np.arange(items[0], dtype=np.float32)

    def both(x: Any, y: Any, w: Any, m: Any, scale: Any) -> Any:
        loss = lambda x: logits_loss(x, y, w, mask=m, reduction=reduction)  # noqa: E731
        value, back = jax.vjp(loss, x)
        return value, back(scale * jnp.ones_like(value))[0]

    batch = (x, y, weight, mask, scale)
    for run in (jax.jit(jax.vmap(both)), jax.vmap(jax.jit(both))):
        losses, gradients = run(*batch)
        for k in (0, 1, items[0] - 1):
            loss, gradient = jax.jit(both)(*(a[k] for a in batch))
            same_bits(losses[k], loss)
            same_bits(gradients[k], gradient)
    same_bits(losses[1], np.zeros_like(losses[1]))
    same_bits(gradients[1], np.zeros_like(gradients[1]))
    for k in (0, items[0] - 1):
        given = {"mask": mask[k], "reduction": reduction}
        same_bits(losses[k], numpy_face.binary_cross_entropy_with_logits(x[k], y[k], weight[k], **given))


SCALARS = {"mean": [0.0, 1, 1, 1], "weighted_mean": [0.0, 0, 1, 1], "sum": [0.0, 1, 1, 1]}


@pytest.mark.parametrize("reduction", SCALARS)
def test_items_of_one_element(reduction: str) -> None:
    """Of which one is masked, and one has no weight: then a weighted mean is 0, and else it is the loss."""
    x, y, w = np.float32([np.nan, 3, -2, 1]), np.float32([1, 1, 0, 0]), np.float32([1, 0, 0.7, 2])
    mask = np.array([0, 1, 1, 1])
    both = jax.value_and_grad(lambda x, y, w, m: logits_loss(x, y, w, reduction, mask=m), (0, 2))
    losses, (gradients, to_weight) = jax.jit(jax.vmap(both))(x, y, w, mask)
    x[0] = 0
    each = np.where(mask, np.logaddexp(0, np.where(y, -x, x)), 0)
    slope = np.where(mask, np.where(y, -1, 1) / (1 + np.exp(np.where(y, x, -x))), 0)
    effective = np.float32(SCALARS[reduction]) if reduction == "weighted_mean" else w
    np.testing.assert_allclose(losses, np.where(mask, each * effective, 0), rtol=1e-6)
    np.testing.assert_allclose(gradients, np.where(mask, slope * effective, 0), rtol=1e-6)
    np.testing.assert_allclose(to_weight, 0 * each if reduction == "weighted_mean" else each, rtol=1e-6, atol=1e-7)
    items = [both(*item) for item in zip(x, y, w, mask, strict=True)]
    np.testing.assert_array_equal(losses, [loss for loss, _ in items])
    np.testing.assert_array_equal(gradients, [gradient for _, (gradient, _) in items])


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        ("mask", "mean"),
        ("mask", "weighted_mean"),
        ("mask and weight", "weighted_mean"),
        ("weight", "mean"),
        ("input", "weighted_mean"),
    ],
)
@pytest.mark.usefixtures("in_float64")
def test_vmap_of_all_and_all_of_vmap(reduction: str, name: str) -> None:
    rng = np.random.default_rng(0)
    fixed = [rng.normal(0, 3, SHAPE), rng.random(SHAPE), rng.uniform(0.5, 2, SHAPE), MASK]
    batched = [k for k, each in enumerate(("input", "target", "weight", "mask")) if each in name]
    arguments = [rng.permuted(np.stack([a] * 3), axis=0) + 0 if k in batched else a for k, a in enumerate(fixed)]
    arguments[3] = (rng.random((3, *SHAPE)) < 0.6) if 3 in batched else MASK
    axes = tuple(0 if k in batched else None for k in range(4))

    def definition_of(x: Any, y: Any, w: Any, m: Any) -> Any:
        losses = jnp.where(m, formula.logits_loss(jnp, x, y, w, None, 0.1, 2.0), 0)
        kept = jnp.where(m, w if reduction == "weighted_mean" else 1, 0).sum()
        return losses.sum() / kept

    def loss(x: Any, y: Any, w: Any, m: Any) -> Any:
        return logits_loss(x, y, w, reduction, mask=m, label_smoothing=0.1, gamma=2.0)

    def combined(f: Any) -> Any:
        return jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1, 2))

    for transform in (
        lambda f: jax.vmap(f, axes),
        lambda f: combined(jax.vmap(f, axes)),
        lambda f: jax.vmap(combined(f), axes),
        lambda f: jax.vmap(lambda *a: jax.jvp(lambda *b: f(*b, a[3]), a[:3], a[:3]), axes),
        lambda f: jax.vmap(lambda *a: jax.hessian(f)(*a), axes),
    ):
        actual, wanted = (jax.jit(transform(f))(*arguments) for f in (loss, definition_of))
        assert_alike(actual, wanted)


# Nothing kept


@both_inputs
@pytest.mark.parametrize(
    ("reduction", "jitted"),
    in_turn(["none", "mean", "sum", "batchmean", "weighted_mean"], ways=[False, True]),
)
def test_nothing_kept_is_0_with_gradients_of_0(reduction: str, jitted: bool, probabilities: bool) -> None:
    wrap: Any = jax.jit if jitted else lambda function: function
    x, y, w, p = (jnp.full((3, 2), a, jnp.float32) for a in (np.nan, -100, np.inf, np.nan))
    for chosen in ({"mask": False}, {"mask": np.zeros(2)}, {"ignore_index": -100}):

        def total(x: Any, y: Any, w: Any, p: Any, chosen: Any = chosen) -> Any:
            return FUNCTIONS[probabilities](x, y, w, reduction, pos_weight=p, **chosen).sum()

        for result in jax.tree.leaves(wrap(jax.value_and_grad(total, (0, 1, 2, 3)))(x, y, w, p)):
            np.testing.assert_array_equal(result, np.zeros_like(result))
        np.testing.assert_array_equal(wrap(lambda x, f=total: jax.jvp(f, (x, y, w, p), (x, y, w, p)))(x), [0, 0])


def test_weights_that_add_up_to_0() -> None:
    x, y, w = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]), jnp.array([0.5, -0.5])
    for weight in (w, 0 * w):
        loss = jax.jit(lambda x, w: logits_loss(x, y, w, "weighted_mean"))
        for result in jax.tree.leaves(jax.value_and_grad(loss, (0, 1))(x, weight)):
            np.testing.assert_array_equal(result, np.zeros_like(result))


def test_an_empty_mean_is_0_only_where_something_selects() -> None:
    x = jnp.zeros((0, 3))
    assert np.isnan(logits_loss(x, x))
    assert logits_loss(x, x, mask=True) == 0
    assert logits_loss(x, x, ignore_index=-100) == 0


# What is static


def test_a_mask_is_traced_and_numbers_may_be_static() -> None:
    x, y = jnp.ones(3), jnp.ones(3)
    traces: list[int] = []

    @jax.jit
    def masked(mask: Any) -> Any:
        traces.append(1)
        return logits_loss(x, y, mask=mask, reduction="sum")

    for mask in ([True] * 3, [False] * 3, [True, False, True]):
        np.testing.assert_allclose(masked(jnp.array(mask)), sum(mask) * np.log1p(np.exp(-1)), rtol=1e-6)
    assert len(traces) == 1

    smoothed = jax.jit(logits_loss, static_argnames="label_smoothing")
    np.testing.assert_allclose(smoothed(x, y, label_smoothing=1.0), (2 * np.log1p(np.exp(-1)) + 1) / 2, rtol=1e-6)
    with pytest.raises(TypeError, match=r"ignore_index: expected a number, got one that is traced; pass it as a stat"):
        jax.jit(lambda value: logits_loss(x, y, ignore_index=value))(0.5)


def test_one_nan_is_as_good_as_another() -> None:
    x, y = jnp.ones(6), jnp.array([1, 0, np.nan, 0, 1, np.nan])
    wanted = logits_loss(x[:2], y[:2])
    before = _compute._cache_size()
    for nan in (float("nan"), math.nan, np.nan, np.float32("nan")):
        np.testing.assert_allclose(logits_loss(x, y, ignore_index=nan), wanted, rtol=1e-6)
    assert _compute._cache_size() == before + 1
    first, second = (face.BCEWithLogitsLoss(ignore_index=float("nan")) for _ in range(2))
    for other in (second, pickle.loads(pickle.dumps(first)), copy.copy(first), copy.deepcopy(first)):
        assert jax.tree.structure(first) == jax.tree.structure(other)


def test_the_classes_keep_them() -> None:
    x, y, given = arrays("float32", (6, 5), probabilities=True)
    mask, numbers = given["mask"], {"ignore_index": -100, "label_smoothing": 0.1, "gamma": 2.0}
    for cls, function in ((face.BCEWithLogitsLoss, logits_loss), (face.BCELoss, face.binary_cross_entropy)):
        loss = cls(jnp.asarray(given["weight"]), "weighted_mean", **numbers)
        wanted = function(x, y, given["weight"], "weighted_mean", mask=mask, **numbers)
        for same in (loss, jax.tree.map(lambda a: a, loss), pickle.loads(pickle.dumps(loss))):
            same_bits(same(x, y, mask=mask), wanted)
            same_bits(jax.jit(lambda loss, x, mask: loss(x, y, mask=mask))(same, x, mask), wanted)
        slope = jax.grad(lambda loss, y: loss(x, y, mask=mask))(loss, y)
        assert slope.gamma == 2.0, "a number is no leaf"
        assert np.isfinite(slope.weight).all()
        given_as_text = (
            "reduction='weighted_mean', weight=float32[5], ignore_index=-100, label_smoothing=0.1, gamma=2.0"
        )
        assert repr(loss) == f"{cls.__name__}({given_as_text})"
        with pytest.raises(TypeError, match="positional"):
            cls(None, "mean", None, -100)


TWO = jnp.ones(2)
REFUSED = {
    "a list as mask": (lambda: logits_loss(TWO, TWO, mask=[True, False]), TypeError, r"mask: expected an array, got l"),
    "a complex mask": (lambda: logits_loss(TWO, TWO, mask=TWO * 1j), TypeError, r"mask: dtype complex64 is not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    call, exception, message = REFUSED[name]
    with pytest.raises(exception, match=message):
        call()


@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean"])
def test_what_is_ignored_may_be_out_of_range(reduction: str) -> None:
    q, y = np.float32([1.5, 0.5, 7, np.nan, 0.25]), np.float32([-100, 1, 0, -3, 0])
    mask, w = np.array([True, True, False, False, True]), np.ones(5, np.float32)
    given = {"mask": mask, "ignore_index": -100, "reduction": reduction}
    wanted = numpy_face.binary_cross_entropy(q, y, w, **given)
    assert np.isfinite(wanted).all()
    for wrap in (lambda f: f, jax.jit):
        same_bits(wrap(lambda q: face.binary_cross_entropy(q, y, w, **given))(q), wanted)
    q[4] = 1.25
    with pytest.raises(ValueError, match=r"all elements of input should be .* but input\[4\] is 1.25"):
        face.binary_cross_entropy(q, y, w, **given)
    assert np.isnan(jax.jit(lambda q: face.binary_cross_entropy(q, y, w, **given))(q)).any()


# The kernel and the formula


def runs_of(call: Any) -> int:
    before = kernel.runs()
    jax.block_until_ready(call())
    return kernel.runs() - before


@any_choice
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_how_often_the_kernel_runs(reduction: str, choice: str) -> None:
    chosen = CHOICES[choice]
    x, y, w, *_ = (a.astype(jnp.float32) for a in operands(chosen, probabilities=False))
    loss = lambda x: logits_loss(x, y, w, reduction, **chosen)  # noqa: E731
    assert runs_of(lambda: jax.jit(jax.value_and_grad(loss))(x)) == 1
    assert runs_of(lambda: jax.value_and_grad(loss)(x)) == 2
    assert runs_of(lambda: jax.jit(jax.grad(lambda x: 3 * loss(x)))(x)) == 2
    assert runs_of(lambda: jax.jvp(loss, (x,), (x,))) == 1
    assert runs_of(lambda: jax.vmap(lambda x: loss(x).sum())(jnp.stack([x, x]))) == 2


@both_inputs
@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean", "batchmean"])
@any_choice
def test_the_formula_agrees(choice: str, reduction: str, probabilities: bool) -> None:
    """What other platforms compile, run here."""
    chosen = dict(CHOICES[choice])
    x, y, w, p, _ = (np.asarray(a, np.float32) for a in operands(chosen, probabilities=probabilities))
    given = {"weight": w, "pos_weight": p, "reduction": reduction, **chosen}
    loss, gradient = numpy_face.value_and_grad(x, y, probabilities=probabilities, **given)
    mask = chosen.pop("mask", None)
    loss_of = PROBABILITIES if probabilities else LOGITS
    shapes = {"weight": SHAPE, "pos_weight": SHAPE, "mask": None if mask is None else SHAPE}
    call = planned(loss_of, reduction, ("float32", "float32"), SHAPE, SHAPE, **shapes, **chosen)
    names = ("weight", "pos_weight") if mask is None else ("weight", "pos_weight", "mask")
    plan = program.Plan(call, names, x.ndim if reduction == "none" else 0, may_fuse=False)
    rest = (w, p) if mask is None else (w, p, np.broadcast_to(mask, SHAPE))
    actual = jax.jit(lambda *a: untaped.loss(*a, plan=plan))(x, y, *rest)
    np.testing.assert_allclose(actual, loss, rtol=1e-5)
    one = np.ones(SHAPE if reduction == "none" else (1, 1), np.float32)
    actual = jax.jit(lambda *a: untaped.gradient(*a, plan=plan))(one, x, y, *rest)
    np.testing.assert_allclose(actual, gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("given", ["mask", "ignore_index"])
@pytest.mark.parametrize("incoming", [1, 3])
def test_nothing_is_copied_and_only_the_gradient_is_allocated(incoming: int, given: str) -> None:
    x, y = jax.ShapeDtypeStruct((256, 1024), jnp.float32), jax.ShapeDtypeStruct((256, 1024), jnp.int32)
    mask = jax.ShapeDtypeStruct((256, 1024), bool)

    def loss(x: Any, y: Any, mask: Any) -> Any:
        return incoming * logits_loss(x, y, gamma=2.0, **({"mask": mask} if given == "mask" else {"ignore_index": -1}))

    program = jax.jit(jax.value_and_grad(loss)).lower(x, y, mask).compile()
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 1024
    assert memory.output_size_in_bytes < 256 * 1024 * 4 + 1024
    assert " copy(" not in program.as_text()


def test_other_platforms_count_what_is_kept() -> None:
    loss = jax.jit(jax.value_and_grad(lambda x, y, m: logits_loss(x, y, mask=m, gamma=2.0)))
    for platform in ("cuda", "tpu"):
        program = loss.trace(TWO, TWO, TWO > 0).lower(lowering_platforms=(platform,)).as_text()
        assert "custom_call" not in program
        assert "exponential" in program
