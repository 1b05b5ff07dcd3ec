"""What ``binxent.kernels`` promises, asked of every kernel: kernel × dtype × layout × option."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import mpmath
import numpy as np
import pytest

from binxent.kernels import Kernel, Outputs
from tests.kernels.rows import ALL, ROWS, Array, Results, Row, call_of, compute, operands_of
from tests.layouts import LAYOUTS
from tests.operands import logits, probabilities, targets
from tests.reference import (
    DTYPES,
    INTEGER_TARGETS,
    assert_close,
    assert_reduced_close,
    bits,
    error,
    expected,
    textbook_logits_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy warns of inf and NaN

inf, nan = np.inf, np.nan
HALVES = ("bfloat16", "float16")
kernels = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
sources = pytest.mark.parametrize("source", ["logits", "probabilities"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)

SHAPE = (5, 25, 37)  # several blocks, the last of which is not full


def arithmetic(*dtypes: str) -> str:
    return "float64" if "float64" in dtypes else "float32"


def wide(dtype: str) -> Any:
    return np.longdouble if dtype == "float64" else np.float64


def some(
    dtype: str, shape: tuple[int, ...] = SHAPE, source: str = "logits", target: str | None = None, seed: int = 1
) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random(shape) if source == "probabilities" else rng.normal(0, 6, shape)
    y = np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape))
    if target in INTEGER_TARGETS:
        y = rng.integers(0, 2, shape)
    return x.astype(DTYPES[dtype]), y.astype(DTYPES.get(target or dtype, target))


def weights(shape: tuple[int, ...], dtype: str, seed: int = 2) -> Array:
    return np.random.default_rng(seed).lognormal(0, 1, shape).astype(DTYPES[dtype])


def assert_same(actual: Results, wanted: Results) -> None:
    for name, one, other in zip(Results._fields, actual, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(bits(one), bits(other), err_msg=name)


@kernels
def test_what_it_writes(row: Row) -> None:
    assert {*ALL} <= row.kernel.writes <= {*Outputs._fields}


@kernels
def test_the_names_of_the_contract(row: Row) -> None:
    """Every parameter may be given by its name, with what is its default."""
    x, y = some("float32", (3, 4))
    call, operands = call_of(x, y), operands_of(row, x, y)
    given = {"call": call, "operands": operands, "outputs": Outputs(gradient=row.put(np.empty_like(x)))}
    for name in ("reads", "measure", "compute"):
        parameters = [p for p in inspect.signature(getattr(Kernel, name)).parameters.values() if p.name != "self"]
        values = {p.name: given[p.name] if p.default is p.empty else p.default for p in parameters}
        getattr(row.kernel, name)(**values)
    wanted = compute(row, x, y, outputs=("gradient",))
    assert_same(wanted._replace(gradient=row.get(given["outputs"].gradient)), wanted)


# Accuracy


def half_allowed(dtype: str) -> float:
    """Ulp of float32, in which a half type's result may be off before it is rounded: 1/16 of its own ulp."""
    return 2.0 ** {"bfloat16": 12, "float16": 9}[dtype]


@kernels
@pytest.mark.parametrize("kind", ["hard", "soft", "outside"])
@pytest.mark.parametrize("weighting", ["plain", "incoming", "weight", "pos_weight", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@sources
def test_accuracy(row: Row, source: str, dtype: str, weighting: str, kind: str) -> None:
    """From end to end of the range, subnormal results too."""
    if source == "probabilities" and kind == "outside":
        kind = "hard"
    rng = np.random.default_rng(2)
    x = rng.choice((logits if source == "logits" else probabilities)(dtype, 4000, rng), 6000)
    y = targets(kind, x, rng)
    options = {
        name: rng.lognormal(0, 3, x.shape).astype(x.dtype)
        for name in ("weight", "pos_weight")
        if weighting in (name, "both")
    }
    exact = expected(x, y, **options, probabilities=source == "probabilities", wide=wide(dtype))
    allowed = functools.partial(row.tolerance, hard=kind == "hard", outside=kind == "outside", weights=len(options))
    for incoming in (3.0, 1 / 16777213, 1024.0) if weighting == "incoming" else (1.0,):
        found = compute(
            row, x, y, reduction="none", probabilities=source == "probabilities", incoming=incoming, **options
        )
        assert error(found.elements, exact.loss, exact.larger_loss, dtype).max() <= allowed()
        off = error(found.gradient, exact.gradient * incoming, exact.larger_gradient * incoming, dtype)
        assert off.max() <= allowed(scaled=weighting == "incoming")


@kernels
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_the_textbook(row: Row, dtype: str) -> None:
    """With no formula of ours in between."""
    rng = np.random.default_rng(1)
    far = rng.uniform(*((85, 104) if dtype == "float32" else (700, 745)), 40) * rng.choice((-1, 1), 40)
    x = np.concatenate([rng.uniform(-100, 100, 80), rng.normal(0, 2, 80), far]).astype(dtype)
    with mpmath.workdps(380 if dtype == "float64" else 100):
        for y in (np.zeros_like(x), np.ones_like(x)):
            found = compute(row, x, y, reduction="none")
            pairs = [(mpmath.mpf(float(a)), int(b)) for a, b in zip(x, y, strict=True)]
            loss = [textbook_logits_loss(a, b) for a, b in pairs]
            slope = [-1 / (1 + mpmath.exp(a)) if b else 1 / (1 + mpmath.exp(-a)) for a, b in pairs]
            for actual, values in ((found.elements, loss), (found.gradient, slope)):
                exact = np.array([np.longdouble(mpmath.nstr(v, 25)) for v in values])
                assert error(actual, exact, np.abs(exact), dtype).max() <= row.tolerance(hard=True)


@kernels
@pytest.mark.parametrize("target", ["0", "1", "0.3", "float32"])
@pytest.mark.parametrize("dtype", HALVES)
@sources
def test_every_half(row: Row, source: str, dtype: str, target: str) -> None:
    """All 65536 inputs, and some of them with a gradient that a loss scale has raised."""
    x = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])
    with np.errstate(invalid="ignore"):
        x = x[np.isfinite(x.astype(np.float32))]
        if source == "probabilities":
            x = x[(x >= 0) & (x <= 1)]
    y = np.full(x.shape, 0.3, np.float32) if target == "float32" else np.full(x.shape, float(target), DTYPES[dtype])
    result = "float32" if target == "float32" else dtype
    allowed = row.tolerance(hard=target in "01") if target == "float32" else half_allowed(dtype)
    for incoming, step in ((1.0, 1), (1024.0, 19)):
        x, y = x[::step], y[::step]
        exact = expected(x, y, probabilities=source == "probabilities")
        found = compute(row, x, y, reduction="none", probabilities=source == "probabilities", incoming=incoming)
        assert_close(found.elements, exact.loss, exact.larger_loss, result, allowed=allowed)
        slope, larger = exact.gradient * incoming, exact.larger_gradient * incoming
        if dtype == "float16" and source == "probabilities":
            slope, larger = np.clip(slope, -65504, 65504), np.clip(larger, 0, 65504)
        assert_close(found.gradient, slope, larger, dtype, allowed=max(allowed, half_allowed(dtype) / 8))


@kernels
@pytest.mark.parametrize("scaled", ["weight", "pos_weight", "incoming"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@sources
def test_coefficients_of_every_size(row: Row, source: str, dtype: str, scaled: str) -> None:
    """A weight, or what comes in, may be as small or as large as its type allows."""
    rng = np.random.default_rng(2)
    most = {"float32": 37, "float64": 290}[dtype]
    exponents = (-most, -most + 6, -most // 2, -20, -3, 5, 20, most // 2, most - 14)
    is_q = source == "probabilities"
    shape = (len(exponents), 400)
    x = rng.uniform(0, 1, shape) ** 3 if is_q else rng.uniform(-100, 100, shape) * rng.choice((0.02, 1), shape)
    x, y = x.astype(dtype), rng.choice((0.0, 1.0, 0.3), shape).astype(dtype)
    values = (rng.uniform(1, 9, (len(exponents), 1)) * 10.0 ** np.array(exponents)[:, None]).astype(dtype)
    options = {} if scaled == "incoming" else {scaled: values}
    exact = expected(x, y, **options, probabilities=is_q, wide=np.longdouble)
    by = values.astype(np.longdouble) if scaled == "incoming" else np.ones_like(values, np.longdouble)
    allowed = row.tolerance(weights=len(options), scaled=scaled == "incoming") + 2 * is_q

    def check(found: Results, part: Any = slice(None)) -> None:
        assert error(found.elements, exact.loss[part], exact.larger_loss[part], dtype).max() <= allowed
        slope, larger = exact.gradient[part] * by[part], exact.larger_gradient[part] * by[part]
        assert error(found.gradient, slope, larger, dtype).max() <= allowed

    call = {"reduction": "none", "probabilities": is_q}
    if scaled != "incoming":
        check(compute(row, x, y, **call, **options))
        return
    outputs = ("gradient",) if row.incoming_is_a_weight else ALL
    found = compute(row, x, y, **call, incoming=np.broadcast_to(values, shape), outputs=outputs)
    check(found if found.elements is not None else found._replace(elements=compute(row, x, y, **call).elements))
    for part in (slice(0, 1), slice(3, 4), slice(6, 7), slice(8, 9)):
        value = values[part].reshape(())
        if row.numbers_on_device:
            check(compute(row, x[part], y[part], **call, incoming=value), part)
        check(compute(row, x[part], y[part], **call, incoming=float(value)), part)


# Options

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": (37,)},
    "sample_weight": {"sample_weight": (5,)},
    "both weights": {"weight": (25, 1), "sample_weight": (5,)},
    "pos_weight": {"pos_weight": (25, 1)},
    "mask": {"mask": (5, 1, 37)},
    "ignore_index": {"ignore_index": 1},
    "ignore_index nan": {"ignore_index": nan},
    "label_smoothing": {"label_smoothing": 0.1},
    "gamma": {"gamma": 2.0},
    "gamma 0.5": {"gamma": 0.5},
    "all": {
        "weight": (37,), "sample_weight": (5,), "pos_weight": (), "mask": (25, 37), "ignore_index": 0,
        "label_smoothing": 0.2, "gamma": 1.5,
    },
}  # fmt: skip


def made(option: str, dtype: str, target: Array) -> tuple[dict[str, Any], Array]:
    """The option's arrays and numbers, and a target that has what is ignored."""
    options: dict[str, Any] = {}
    for name, value in OPTIONS[option].items():
        if name == "mask":
            options[name] = np.random.default_rng(5).random(value) < 0.7
        elif isinstance(value, tuple):
            options[name] = weights(value, dtype, seed=len(name))
        else:
            options[name] = value
    if options.get("ignore_index", 0) != options.get("ignore_index", 0):
        target = target.copy()
        target[..., ::3] = nan
    return options, target


@kernels
@pytest.mark.parametrize("option", OPTIONS)
@dtypes
@sources
def test_options_and_reductions(row: Row, source: str, dtype: str, option: str) -> None:
    x, y = some(dtype, source=source)
    options, y = made(option, dtype, y)
    exact = expected(x, y, **options, probabilities=source == "probabilities", wide=wide(dtype))
    number = sum(name in options for name in ("weight", "sample_weight", "pos_weight"))
    allowed = row.tolerance(weights=number) + exact.amplified + 2 * (source == "probabilities")
    computed_in = arithmetic(dtype)
    if dtype in HALVES:
        allowed = np.maximum(allowed, half_allowed(dtype))
    for reduction in ("none", "sum", "mean", "batchmean", "weighted_mean"):
        weighted = "weight" in options or "sample_weight" in options
        divisor = exact.kept if reduction == "weighted_mean" and not weighted else exact.divisor(reduction)
        found = compute(row, x, y, probabilities=source == "probabilities", reduction=reduction, **options)
        slope, larger = exact.gradient / divisor, exact.larger_gradient / divisor
        if dtype == "float16" and source == "probabilities":
            slope, larger = np.clip(slope, -65504, 65504), np.clip(larger, 0, 65504)
        assert_close(found.gradient, slope, larger, dtype, allowed=allowed + 2.5, computed_in=computed_in)
        assert_close(found.elements, exact.loss, exact.larger_loss, dtype, allowed=allowed, computed_in=computed_in)
        if reduction == "weighted_mean" and not weighted:
            reduction = "mean"
        if reduction != "none":
            assert_reduced_close(found.total, exact, reduction, dtype, allowed=allowed + 1, computed_in=computed_in)


@kernels
@pytest.mark.parametrize("target", [*INTEGER_TARGETS, *DTYPES])
@dtypes
def test_every_pair_of_types(row: Row, dtype: str, target: str) -> None:
    """The target is read for what it is: the bits are those of the same numbers in the input's type."""
    x, y = some(dtype, target=target)
    found = compute(row, x, y)
    result = call_of(x, y).dtype
    assert found.elements is not None
    assert found.total is not None
    assert found.elements.dtype == found.total.dtype == DTYPES[result]
    if target in INTEGER_TARGETS:
        assert_same(found, compute(row, x, y.astype(x.dtype)))
        return
    exact = expected(x, y, wide=wide(result))
    allowed = row.tolerance() if result not in HALVES else half_allowed(result)
    assert_close(
        found.elements, exact.loss, exact.larger_loss, result, allowed=allowed, computed_in=arithmetic(dtype, target)
    )
    assert_close(
        found.gradient, exact.gradient / x.size, exact.larger_gradient / x.size, dtype, allowed=allowed + 1.5,
        computed_in=arithmetic(dtype, target),
    )  # fmt: skip


@kernels
@pytest.mark.parametrize("name", ["weight", "pos_weight", "mask"])
@pytest.mark.parametrize("other", [*INTEGER_TARGETS, *DTYPES])
def test_weights_and_masks_of_every_type(row: Row, other: str, name: str) -> None:
    x, y = some("float32")
    array = np.random.default_rng(3).integers(0, 2, x.shape).astype(DTYPES.get(other, other))
    found = compute(row, x, y, reduction="none", **{name: array})
    if other == "float64" and name in row.widening:
        exact = expected(x, y, **{name: array})
        assert_close(found.elements, exact.loss, exact.larger_loss, "float32", allowed=0.5)
        assert_close(found.gradient, exact.gradient, exact.larger_gradient, "float32", allowed=0.5)
        return
    assert_same(found, compute(row, x, y, reduction="none", **{name: array.astype(np.float32)}))


@kernels
def test_a_mask_is_not_rounded_to_0(row: Row) -> None:
    x = np.zeros(4, np.float32)
    mask = np.array([1.0, 1e-60, 0.0, nan])
    found = compute(row, x, x, mask=mask)
    np.testing.assert_array_equal(found.elements != 0, [True, True, False, True])
    np.testing.assert_array_equal(found.total, np.float32(np.log(2)))


# The same bits


@kernels
@pytest.mark.parametrize(
    ("dtype", "shape"), [*((dtype, (45, 103)) for dtype in DTYPES), ("float32", (3, 4, 5, 6, 7))], ids=str
)
def test_bits_do_not_depend_on_layout(row: Row, dtype: str, shape: tuple[int, ...]) -> None:
    x, y = some(dtype, shape)
    options = {"weight": weights(shape, dtype), "pos_weight": weights(shape, dtype, 3)}
    wanted = compute(row, x, y, **options)
    for layout in row.layouts:
        lay = LAYOUTS[layout]
        laid = {name: lay(array) for name, array in options.items()}
        assert_same(compute(row, lay(x), y, **options), wanted)
        assert_same(compute(row, x, lay(y), **laid), wanted)
        assert_same(compute(row, lay(x), lay(y), lay=lay, **laid), wanted)
        assert_same(compute(row, lay(x), y, in_place=True, **options), wanted)


@kernels
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [*(("float32", kept) for kept in itertools.product((False, True), repeat=3)), ("bfloat16", (True, False, True))],
)
def test_bits_do_not_depend_on_broadcasting(row: Row, dtype: str, kept: tuple[bool, ...]) -> None:
    x, y = some(dtype)
    small = tuple(slice(None) if k else slice(1) for k in kept)
    mask = np.random.default_rng(4).random(SHAPE) < 0.5
    for name, whole in (("weight", weights(SHAPE, dtype)), ("pos_weight", weights(SHAPE, dtype)), ("mask", mask)):
        own = np.ascontiguousarray(whole[small])
        view = np.broadcast_to(own, SHAPE)
        wanted = compute(row, x, y, **{name: view.copy()})
        assert_same(compute(row, x, y, **{name: view}), wanted)
        assert_same(compute(row, x, y, **{name: own}), wanted)
        while own.ndim and own.shape[0] == 1:
            own = np.asarray(own[0])
        assert_same(compute(row, x, y, **{name: own}), wanted)
    flat = np.broadcast_to(np.ascontiguousarray(x[small]), SHAPE)
    assert_same(compute(row, flat, y), compute(row, flat.copy(), y))
    flat = np.broadcast_to(np.ascontiguousarray(y[small]), SHAPE)
    assert_same(compute(row, x, flat), compute(row, x, flat.copy()))
    both = np.broadcast_to(np.ascontiguousarray(x[small]), SHAPE)
    assert_same(compute(row, both, flat), compute(row, both.copy(), flat.copy()))


@kernels
@dtypes
@sources
def test_one_output_changes_nothing_in_another(row: Row, source: str, dtype: str) -> None:
    x, y = some(dtype, source=source)
    options: dict[str, Any] = {"probabilities": source == "probabilities", "incoming": 0.3}
    wanted = compute(row, x, y, **options)
    assert_same(compute(row, x, y, **options), wanted)  # another run
    for number in (1, 2):
        for chosen in itertools.combinations(ALL, number):
            found = compute(row, x, y, outputs=chosen, **options)
            assert_same(
                found, Results(*(w if n in chosen else None for n, w in zip(Results._fields, wanted, strict=True)))
            )


# What is ignored


@kernels
@pytest.mark.parametrize("hidden", [nan, inf, -inf])
@dtypes
@sources
def test_what_is_ignored_adds_0(row: Row, source: str, dtype: str, hidden: float) -> None:
    x, y = some(dtype, source=source, target="int8")
    mask = np.random.default_rng(4).random(SHAPE) < 0.5
    w = weights(SHAPE, dtype)
    options: dict[str, Any] = {"probabilities": source == "probabilities", "mask": mask}
    for reduction in ("mean", "weighted_mean"):
        wanted = compute(row, x, y, weight=w, pos_weight=w, reduction=reduction, **options)
        dirty_x, dirty_w = (np.where(mask, a, np.array(hidden, a.dtype)) for a in (x, w))
        found = compute(row, dirty_x, y, weight=dirty_w, pos_weight=dirty_w, reduction=reduction, **options)
        assert_same(found, wanted)
        assert found.gradient is not None
        assert not found.gradient[~mask].any()
        assert not np.signbit(found.gradient[~mask].astype(float)).any()
    options["ignore_index"] = -100
    y = np.where(mask, y, np.int8(-100))
    assert_same(
        compute(row, dirty_x, y, weight=w, **{**options, "mask": np.ones((), bool)}),
        compute(row, dirty_x, y, weight=w, **options),
    )


@kernels
def test_nothing_kept(row: Row) -> None:
    x, y = some("float32")
    none = np.zeros(SHAPE, bool)
    for reduction in ("mean", "weighted_mean", "sum", "batchmean"):
        found = compute(row, x, y, mask=none, weight=weights(SHAPE, "float32"), reduction=reduction)
        assert found.total == 0
        assert not found.gradient.any()  # type: ignore[union-attr]
    zero = compute(row, x, y, weight=np.zeros((), np.float32), reduction="weighted_mean")
    assert zero.total == 0
    assert not zero.gradient.any()  # type: ignore[union-attr]


@kernels
def test_what_the_divisor_counts(row: Row) -> None:
    """Over shards it is additive."""
    x, y = some("float32")
    mask, w = np.random.default_rng(4).random(SHAPE) < 0.5, weights(SHAPE, "float32")
    s = weights(SHAPE[:1], "float32")

    def measured(part: slice, reduction: str, **options: Any) -> Any:
        """A number, or an array of one on the device."""
        options = {name: a[part] if isinstance(a, np.ndarray) else a for name, a in options.items()}
        call = call_of(x[part], y[part], reduction=reduction, **options)
        found = row.kernel.measure(call, operands_of(row, x[part], y[part], **options))
        return row.get(found) if row.numbers_on_device else found

    every, parts = slice(None), (slice(0, 2), slice(2, 5))
    given: dict[str, Any] = {"mask": mask, "ignore_index": 0}
    keep = mask & (y != 0)
    assert measured(every, "mean", **given) == keep.sum()
    assert sum(measured(part, "mean", **given) for part in parts) == keep.sum()
    given |= {"weight": w, "sample_weight": s}
    exact = (keep * w.astype(float) * s.astype(float)[:, None, None]).sum()
    np.testing.assert_allclose(float(measured(every, "weighted_mean", **given)), exact, rtol=1e-14)
    assert sum(measured(part, "weighted_mean", **given) for part in parts) == pytest.approx(exact, rel=1e-14)
    # What was measured, handed over: the same bits.
    for reduction in ("mean", "weighted_mean"):
        handed = compute(row, x, y, reduction=reduction, divisor=measured(every, reduction, **given), **given)
        assert_same(handed, compute(row, x, y, reduction=reduction, **given))


@kernels
@dtypes
def test_a_normalizer(row: Row, dtype: str) -> None:
    """A number, handed over as the divisor; or an array on the device."""
    x, y = some(dtype)
    exact = expected(x, y, wide=wide(dtype))
    allowed = row.tolerance() if dtype not in HALVES else half_allowed(dtype)
    none = {"normalizer": np.array(0, np.int64)} if row.numbers_on_device else {"normalizer": 0, "divisor": 0.0}
    nothing = compute(row, x, y, **none)
    assert nothing.total == 0
    assert not nothing.gradient.any()  # type: ignore[union-attr]
    for by in (8.0, 0.5):
        found, share = compute(row, x, y, divisor=by), 1 / by
        if row.numbers_on_device:
            assert_same(compute(row, x, y, normalizer=np.array(by, np.float32)), found)
        assert_close(
            found.gradient, exact.gradient * share, exact.larger_gradient * share, dtype, allowed=allowed,
            computed_in=arithmetic(dtype),
        )  # fmt: skip
        total = (compute(row, x, y, reduction="sum").total * np.float64(share)).astype(DTYPES[dtype])
        np.testing.assert_array_equal(found.total, total)


# Learnt options


@kernels
@dtypes
@sources
def test_options_on_the_device(row: Row, source: str, dtype: str) -> None:
    """The bits are those of the numbers; a kernel that needs numbers says that it cannot read the arrays."""
    x, y = some(dtype, source=source)
    exact = np.float64 if dtype == "float64" else np.float32
    for name, value in (("gamma", 2.0), ("gamma", 0.0), ("label_smoothing", 0.25), ("label_smoothing", 0.0)):
        learnt = {name: np.array(value, exact)}
        assert row.kernel.reads(operands_of(row, x, y, **learnt)) == row.numbers_on_device
        if not row.numbers_on_device:
            continue
        there = compute(row, x, y, probabilities=source == "probabilities", **learnt)
        here = compute(row, x, y, probabilities=source == "probabilities", **{name: value})
        if value:
            assert_same(there, here)
        else:  # a power of 0, of another formula
            for output in ALL:
                one, other = getattr(there, output).astype(float), getattr(here, output).astype(float)
                np.testing.assert_allclose(one, other, rtol=2.0**-6, atol=1e-7)


# Incoming gradients


@kernels
@pytest.mark.parametrize("incoming", [1.0, 3.0, 0.7, 65536.0, 1 / 65536])
@dtypes
def test_an_incoming_gradient(row: Row, dtype: str, incoming: float) -> None:
    """A number; one number on the device: the same, where a power of two divides; and one for each element."""
    x, y = some(dtype, (64, 64))
    result = np.float32 if dtype in HALVES else DTYPES[dtype]
    there = np.array(incoming, result)
    if row.numbers_on_device:
        wanted = compute(row, x, y, incoming=float(there))
        for sent in (there, np.broadcast_to(there, x.shape).copy(), np.broadcast_to(there, x.shape)):
            assert_same(compute(row, x, y, incoming=sent), wanted)
    alone: dict[str, Any] = {"reduction": "none", "outputs": ("gradient",)}
    wanted = compute(row, x, y, incoming=np.broadcast_to(there, x.shape).copy(), **alone)
    assert_same(compute(row, x, y, incoming=np.broadcast_to(there, x.shape), **alone), wanted)
    exact = expected(x, y, wide=wide(dtype))
    allowed = row.tolerance(scaled=True) if dtype not in HALVES else half_allowed(dtype)
    for found in (wanted, compute(row, x, y, incoming=float(there), **alone)):
        slope, larger = exact.gradient * float(there), exact.larger_gradient * float(there)
        assert_close(found.gradient, slope, larger, dtype, allowed=allowed, computed_in=arithmetic(dtype))
    if incoming % 1 == 0:
        assert_same(compute(row, x, y, incoming=int(incoming)), compute(row, x, y, incoming=incoming))


@kernels
def test_an_incoming_gradient_for_each_element(row: Row) -> None:
    x, y = some("float32")
    g = np.random.default_rng(9).normal(0, 3, SHAPE).astype(np.float32)
    g[0, 0, :3] = 0, inf, nan
    alone = ("gradient",) if row.incoming_is_a_weight else ALL
    found = compute(row, x, y, incoming=g, reduction="none", outputs=alone)
    exact = expected(x, y)
    off = error(found.gradient, exact.gradient * g, exact.larger_gradient * np.abs(g), "float32")
    if row.incoming_is_a_weight:  # and an infinite weight makes NaN of a coefficient of 0
        assert np.isnan(found.gradient[0, 0, 1])  # type: ignore[index]
        off[0, 0, 1] = 0
    assert off.max() <= row.tolerance(scaled=True)
    by_column = np.broadcast_to(g[2, 3], SHAPE)
    assert_same(
        compute(row, x, y, incoming=by_column, reduction="none", outputs=alone),
        compute(row, x, y, incoming=by_column.copy(), reduction="none", outputs=alone),
    )


@kernels
@dtypes
@sources
def test_an_infinite_incoming_gradient(row: Row, source: str, dtype: str) -> None:
    """A loss scale that overflows: infinite wherever there is a gradient."""
    x, y = np.array([0.25, 0.75, 0.5]).astype(DTYPES[dtype]), np.array([0, 1, 1])
    for incoming in (inf, -inf):
        for sent in (incoming, np.array(incoming, np.float32)) if row.numbers_on_device else (incoming,):
            found = compute(row, x, y, incoming=sent, probabilities=source == "probabilities")
            wanted = np.copysign(inf, incoming) * np.array([1, -1, -1])
            if source == "probabilities" and dtype == "float16":
                wanted = np.clip(wanted, -65504, 65504)
            np.testing.assert_array_equal(found.gradient.astype(float), wanted)  # type: ignore[union-attr]
            assert np.isfinite(found.elements.astype(float)).all()  # type: ignore[union-attr]


@kernels
def test_a_small_half_gradient_survives_a_loss_scale(row: Row) -> None:
    """Were it rounded before it is scaled, all of it would be 0."""
    x = np.full(8, -20.0, np.float16)
    found = compute(row, x, np.zeros(8, np.float16), incoming=1024.0, reduction="none")
    np.testing.assert_allclose(found.gradient.astype(float), 1024 * 2.0611536e-9, rtol=2**-6)  # type: ignore[union-attr]


# Edges


@kernels
@pytest.mark.parametrize("weight", [None, 16.0, 0.0])
@dtypes
def test_infinite_logits(row: Row, dtype: str, weight: float | None) -> None:
    """The limit: 0 or ∞; what is 0 stays 0, whatever multiplies it."""
    options = {} if weight is None else {"weight": np.array(weight)}
    if dtype != "float64" and options:
        options["weight"] = options["weight"].astype(np.float32)
    far = {"float64": 1e300, "float16": 65504.0}.get(dtype, 1e30)
    for right in (inf, far, {"float64": 800.0}.get(dtype, 150.0)):
        x = np.array([right, -right]).astype(DTYPES[dtype])
        found = compute(row, x, np.array([1, 0], np.int8), reduction="none", **options)
        np.testing.assert_array_equal(found.elements, [0, 0])
        np.testing.assert_array_equal(found.gradient, [0, 0])
    x = np.array([inf, -inf]).astype(DTYPES[dtype])
    found = compute(row, x, np.array([0, 1], np.int8), reduction="none", **options)
    scale = 1.0 if weight is None else weight
    np.testing.assert_array_equal(found.elements.astype(float), [inf, inf] if scale else [0, 0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.gradient.astype(float), [scale, -scale])  # type: ignore[union-attr]
    found = compute(row, x, np.array([0, 1], np.int8), gamma=2.0, reduction="none", **options)
    np.testing.assert_array_equal(found.elements.astype(float), [inf, inf] if scale else [0, 0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.gradient.astype(float), [scale, -scale])  # type: ignore[union-attr]


@kernels
@pytest.mark.parametrize("elements", [1, 16, 5000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_whose_sum_no_float_holds_have_a_mean(row: Row, dtype: str, elements: int) -> None:
    x = np.full(elements, 3e38).astype(DTYPES[dtype])
    found = compute(row, x, np.zeros(elements, np.int8))
    np.testing.assert_array_equal(np.asarray(found.total).astype(x.dtype), x[0])


@kernels
@dtypes
def test_nan_is_hidden_by_nothing_else(row: Row, dtype: str) -> None:
    one, none, unknown = (np.array([v]).astype(DTYPES[dtype]) for v in (1.0, 0.0, nan))
    for x, y, w, p in (
        (unknown, one, one, one),
        (unknown, none, one, one),
        (unknown, one, none, one),
        (unknown, one, one, none),
        (one, unknown, none, one),
        (one, one, unknown, one),
        (one, one, one, unknown),
    ):
        for options in ({}, {"gamma": 2.0}, {"label_smoothing": 0.1}):
            found = compute(row, x, y, weight=w, pos_weight=p, **options)
            assert all(np.isnan(array.astype(float)).all() for array in found if array is not None)
    many = np.zeros(10_000).astype(DTYPES[dtype])
    many[7777] = nan
    found = compute(row, many, np.zeros_like(many))
    assert np.isnan(float(found.total))  # type: ignore[arg-type]
    for array in (found.elements, found.gradient):
        assert np.flatnonzero(np.isnan(array.astype(float))).tolist() == [7777]  # type: ignore[union-attr]


@kernels
@dtypes
def test_no_probability_is_nan(row: Row, dtype: str) -> None:
    x = np.array([0.5, -0.1, 1.5, 0.5, 0.5, inf, nan, 0.0, 1.0]).astype(DTYPES[dtype])
    y = np.array([1.0, 1.0, 1.0, 2.0, -1.0, 1.0, 1.0, 1.0, 0.0]).astype(DTYPES[dtype])
    outside = np.array([False, True, True, True, True, True, True, False, False])
    found = compute(row, x, y, probabilities=True, outputs=("elements", "gradient"), reduction="none")
    np.testing.assert_array_equal(np.isnan(found.elements.astype(float)), outside)  # type: ignore[union-attr]
    np.testing.assert_array_equal(np.isnan(found.gradient.astype(float)), outside)  # type: ignore[union-attr]
    outside[3:5] = False
    found = compute(row, x, y, probabilities=True, reduction="none", any_target=True)
    np.testing.assert_array_equal(np.isnan(found.elements.astype(float)), outside)  # type: ignore[union-attr]
    mask = ~outside
    hidden = compute(row, x, y, probabilities=True, mask=mask, any_target=True)
    assert np.isfinite(float(hidden.total))  # type: ignore[arg-type]


@kernels
@dtypes
def test_empty_and_single(row: Row, dtype: str) -> None:
    for shape in ((0,), (3, 0), (0, 4, 5)):
        x = np.zeros(shape, DTYPES[dtype])
        assert compute(row, x, x, reduction="sum").total == 0
        assert np.isnan(float(compute(row, x, x).total))  # type: ignore[arg-type]
        options = {"weight": weights((), dtype), "pos_weight": weights(shape[-1:], dtype)}
        assert compute(row, x, x, mask=np.ones(shape, bool), **options).total == 0
    for shape in ((), (1,), (1, 1)):
        x, y = np.full(shape, -2, DTYPES[dtype]), np.ones(shape, DTYPES[dtype])
        found, many = compute(row, x, y), compute(row, np.full(3, -2, DTYPES[dtype]), np.ones(3, DTYPES[dtype]))
        assert found.total == found.elements.ravel()[0] == many.total  # type: ignore[union-attr]


@kernels
@dtypes
def test_a_sum_of_many(row: Row, dtype: str) -> None:
    """A constant is summed without an error, and blocks that cancel leave what is between them as it is."""
    x = np.full(50_000, -3.3, DTYPES[dtype])
    found = compute(row, x, np.ones_like(x))
    off = error(found.total, found.elements[0], found.elements[0], dtype)  # type: ignore[index]
    assert off <= (4 if dtype == "float64" else 0)  # its sums are no wider than its elements
    block, between = 4096, 5 * 4096
    x = np.concatenate([np.full(block, 1e4), np.full(between, 50.0), np.full(block, 1e4)]).astype(DTYPES[dtype])
    y = np.concatenate([np.zeros(block), np.zeros(between), np.full(block, 2.0)]).astype(DTYPES[dtype])
    if dtype != "float16":
        assert compute(row, x, y, reduction="sum").total == (50.0 * between if dtype != "bfloat16" else 1024000)
