"""The contract of every kernel once more, for alpha, neg_weight, the focal family and checked targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binxent import options
from binxent.formula import LOGITS, PROBABILITIES
from binxent.kernel import instruction_set
from binxent.kernels import Outputs, native
from tests.focal_cases import CASES as FAMILY
from tests.kernels.rows import Results, Row, call_of, compute, operands_of
from tests.kernels.test_contract import (
    HALVES,
    SHAPE,
    assert_same,
    dtypes,
    half_allowed,
    kernels,
    some,
    sources,
    weights,
)
from tests.kernels.test_sparse import computed
from tests.kernels.test_sparse import some as some_rows
from tests.layouts import LAYOUTS
from tests.operands import from_end_to_end, targets
from tests.reference import DTYPES, Array, assert_close, error
from tests.test_family import amplified, definition_of, promised

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy warns of inf and NaN

inf, nan = np.inf, np.nan
CASES = FAMILY | {f"gamma {gamma}": {"gamma": gamma} for gamma in (0.5, 2.0, 3.7)}
cases = pytest.mark.parametrize("name", CASES)


def given(name: str) -> dict[str, Any]:
    """The case's options as ``rows.compute`` takes them."""
    case = CASES[name]
    family = options.focal(**{key: case[key] for key in options.Focal._fields if key in case})
    return {"focal": family, "gamma": case.get("gamma", 0.0)}


def allowed(row: Row, name: str, *, hard: bool) -> float:
    """Every kernel is asked for what the native one promises."""
    return promised(CASES[name], instruction_set if row.name == "native" else "avx2", hard=hard)


def sizes(name: str, x: Array, y: Array, exact: Array, index: int, *, source: str, **more: Any) -> Array:
    """Of the terms that a loss (0) or a gradient (1) adds."""
    ones = [definition_of(CASES[name], x, np.full_like(y, t), is_logit=source == "logits", **more) for t in (1, 0)]
    share = np.abs(y.astype(np.longdouble))
    terms = np.abs(ones[0][index]) * share + np.abs(ones[1][index]) * np.abs(1 - share)
    return np.where(np.isfinite(terms), np.maximum(terms, np.abs(exact)), np.abs(exact))


# Accuracy


@kernels
@cases
@sources
def test_accuracy(row: Row, source: str, name: str) -> None:
    """From end to end of the range, subnormal results too, and with a gradient that a loss scale has raised."""
    rng = np.random.default_rng(3)
    x = from_end_to_end(source, 1500, rng)
    near = amplified(x, CASES[name], source)
    for kind in ("hard", "soft"):
        y = targets(kind, x, rng)
        exact = definition_of(CASES[name], x, y, is_logit=source == "logits")
        terms = [sizes(name, x, y, value, k, source=source) for k, value in enumerate(exact)]
        for incoming in (1.0, 65536.0, 2.0**-24):
            found = compute(
                row, x, y, reduction="none", probabilities=source == "probabilities", incoming=incoming, **given(name)
            )
            most = allowed(row, name, hard=kind == "hard")
            assert (error(found.elements, exact[0], terms[0], "float32") / near).max() <= most
            off = error(found.gradient, exact[1] * incoming, terms[1] * incoming, "float32")
            assert (off / near).max() <= most


@kernels
@cases
@sources
def test_accuracy_in_float64(row: Row, source: str, name: str) -> None:
    """The power amplifies what is rounded before it, in both kernels."""
    rng = np.random.default_rng(4)
    x = rng.random(900) ** 3 if source == "probabilities" else rng.normal(0, 9, 900)
    y = targets("soft", x, rng)
    power = max(CASES[name].get(key, 0.0) for key in ("gamma", "gamma_positive", "gamma_negative"))
    for target in (y, np.rint(y)):
        exact = definition_of(CASES[name], x, target, is_logit=source == "logits")
        found = compute(row, x, target, reduction="none", probabilities=source == "probabilities", **given(name))
        for k, (got, wanted) in enumerate(zip((found.elements, found.gradient), exact, strict=True)):
            off = error(got, wanted, sizes(name, x, target, wanted, k, source=source), "float64")
            assert (off / amplified(x, CASES[name], source)).max() <= 8 + 3 * power


@kernels
@cases
@pytest.mark.parametrize("dtype", HALVES)
@sources
def test_halves(row: Row, source: str, dtype: str, name: str) -> None:
    x, _ = some(dtype, (4000,), source=source)
    y = np.random.default_rng(5).integers(0, 2, x.shape).astype(x.dtype)
    exact = definition_of(CASES[name], x, y, is_logit=source == "logits")
    near = amplified(x.astype(np.float32), CASES[name], source) * half_allowed(dtype)
    found = compute(row, x, y, reduction="none", probabilities=source == "probabilities", **given(name))
    loss, slope = (value.astype(np.float64) for value in exact)
    if dtype == "float16" and source == "probabilities":
        slope = np.clip(slope, -65504, 65504)
    assert_close(found.elements, loss, np.abs(loss), dtype, allowed=near)
    assert_close(found.gradient, slope, np.abs(slope), dtype, allowed=near)


# Beside every other option

PARTNERS = ("weight", "sample_weight", "pos_weight", "neg_weight", "mask", "ignore_index", "label_smoothing")
REDUCTIONS = ("mean", "sum", "weighted_mean", "batchmean", "none")


def partner_of(name: str, y: Array, dtype: str) -> tuple[dict[str, Any], Array]:
    hidden = np.random.default_rng(6).random(y.shape) < 0.3
    if name == "mask":
        return {"mask": ~hidden}, np.where(hidden, np.array(nan, y.dtype), y)
    if name == "ignore_index":
        return {"ignore_index": -100}, np.where(hidden, np.array(-100, y.dtype), y)
    if name == "label_smoothing":
        return {"label_smoothing": 0.2}, y
    return {name: weights({"sample_weight": SHAPE[:1], "pos_weight": (25, 1)}.get(name, SHAPE[2:]), dtype)}, y


@kernels
@cases
@pytest.mark.parametrize("partner", PARTNERS)
@sources
def test_options_and_reductions(row: Row, source: str, partner: str, name: str) -> None:
    """Each pair of options, with a reduction and a dtype that take turns."""
    turn = list(CASES).index(name) + PARTNERS.index(partner)
    dtype, reduction = list(DTYPES)[turn % len(DTYPES)], REDUCTIONS[turn % len(REDUCTIONS)]
    x, y = some(dtype, source=source)
    more, y = partner_of(partner, y, dtype)
    found = compute(
        row, x, y, reduction=reduction, probabilities=source == "probabilities", **given(name), **more
    )  # fmt: skip
    exact_more = dict(more)
    if "sample_weight" in more:
        exact_more = {"weight": more["sample_weight"].reshape(-1, 1, 1)}
    with np.errstate(all="ignore"):
        loss, slope = definition_of(CASES[name], x, y, is_logit=source == "logits", **exact_more)
    kept = more.get("mask", y != more.get("ignore_index", nan))
    loss, slope = np.where(kept, loss, 0), np.where(kept, slope, 0)
    by = {"mean": kept.sum(), "batchmean": SHAPE[0]}.get(reduction, 1)
    if reduction == "weighted_mean":
        weight = exact_more.get("weight")
        by = kept.sum() if weight is None else np.broadcast_to(weight.astype(np.longdouble), SHAPE).sum()
    slope = slope / by
    if dtype == "float16" and source == "probabilities":
        slope = np.clip(slope, -65504, 65504)
    bound = {"float64": 1e-14, "float32": 4e-6}.get(dtype, 2.0**-8 if dtype == "bfloat16" else 2.0**-11)
    wanted = [(found.elements, loss), (found.gradient, slope)]
    if reduction != "none":
        wanted.append((found.total, np.asarray(loss.sum() / by)))
    for got, value in wanted:
        largest = float(np.abs(value).max())
        np.testing.assert_allclose(got.astype(np.float64), value.astype(np.float64), bound, bound * largest)  # type: ignore[union-attr]


@kernels
@cases
@sources
def test_what_neg_weight_and_its_layout_change(row: Row, source: str, name: str) -> None:
    """Nothing but the coefficient of negatives. The bits do not depend on its shape. Powers of two are exact but for
    subnormal numbers, which are rounded to their own spacing, 2⁻¹⁴⁹, before they are multiplied by up to 8."""
    x, y = some("float32", source=source, target="uint8")
    rest = {"reduction": "none", "probabilities": source == "probabilities", **given(name)}
    plain = compute(row, x, y, **rest)
    n = 2.0 ** np.random.default_rng(7).integers(-3, 4, (25, 1)).astype(np.float32)
    wanted = compute(row, x, y, neg_weight=n, **rest)
    for one, other in ((plain.elements, wanted.elements), (plain.gradient, wanted.gradient)):
        np.testing.assert_allclose(np.where(y == 0, one * n, one), other, rtol=0, atol=8 * 2.0**-149)  # type: ignore[operator]
    whole = np.broadcast_to(n, SHAPE)
    for layout in row.layouts:
        assert_same(compute(row, x, y, neg_weight=LAYOUTS[layout](whole.copy()), **rest), wanted)
    assert_same(compute(row, x, y, neg_weight=whole, **rest), wanted)


@kernels
@cases
@sources
def test_one_output_changes_nothing_in_another(row: Row, source: str, name: str) -> None:
    x, y = some("float32", source=source)
    rest = {"probabilities": source == "probabilities", "incoming": 0.3, **given(name)}
    wanted = compute(row, x, y, **rest)
    for output in ("elements", "total", "gradient"):
        found = compute(row, x, y, outputs=(output,), **rest)
        assert_same(found, Results(None, None, None)._replace(**{output: getattr(wanted, output)}))
    assert_same(compute(row, x, y, in_place=True, **rest), wanted)


@kernels
@cases
@sources
def test_a_sparse_target_has_the_bits_of_a_dense_one(row: Row, source: str, name: str) -> None:
    x, rows, dense = some_rows(40, 100, 30)
    loss = LOGITS
    if source == "probabilities":
        x, loss = np.random.default_rng(8).random(x.shape).astype(np.float32), PROBABILITIES
    wanted = compute(row, x, dense, probabilities=loss is PROBABILITIES, **given(name))
    assert_same(computed(row, x, rows, loss=loss, **given(name)), wanted)


# Edges


@kernels
@cases
@dtypes
def test_infinite_logits_and_nan(row: Row, dtype: str, name: str) -> None:
    x = np.array([inf, -inf, inf, -inf, nan, nan]).astype(DTYPES[dtype])
    y = np.array([1, 0, 0, 1, 0, 1], np.int8)
    found = compute(row, x, y, reduction="none", **given(name))
    exact = definition_of(CASES[name], x, y, is_logit=True)
    for got, value in zip((found.elements, found.gradient), exact, strict=True):
        np.testing.assert_allclose(got.astype(float), value.astype(float), rtol=2.0**-7)  # type: ignore[union-attr]
    assert found.elements[:2].tolist() == [0, 0]  # type: ignore[index]


@kernels
@cases
@sources
def test_options_on_the_device(row: Row, source: str, name: str) -> None:
    """A learnt gamma is that of both branches; the bits are those of the number."""
    if "gamma_positive" in CASES[name] or "gamma_negative" in CASES[name] or not row.numbers_on_device:
        return
    x, y = some("float32", source=source)
    rest = {"probabilities": source == "probabilities", "focal": given(name)["focal"]}
    for learnt, value in (("gamma", 1.5), ("label_smoothing", 0.25)):
        there = compute(row, x, y, **rest, **{learnt: np.array(value, np.float32)})
        assert_same(there, compute(row, x, y, **rest, **{learnt: value}))


# check_targets


@kernels
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("operand", "wrong"),
    [("target", 3.0), ("target", -1e-3), ("target", nan), ("pos_weight", -1.0), ("neg_weight", -0.5), ("mask", 0.5),
     ("mask", nan)],
)  # fmt: skip
@sources
def test_wrong_targets(row: Row, source: str, operand: str, wrong: float, ignored: bool) -> None:
    """A flag, or NaN in a kernel that returns none; what is ignored is exempt."""
    x, y = some("float32", source=source)
    y = np.clip(y, 0, 1)
    arrays: dict[str, Array] = {"pos_weight": weights(SHAPE, "float32"), "neg_weight": weights(SHAPE, "float32")}
    arrays["mask"] = np.ones(SHAPE, np.float32)
    rest: dict[str, Any] = {"probabilities": source == "probabilities", "reduction": "none", "any_target": True}
    right = compute(row, x, y, check_targets=True, **arrays, **rest)
    assert_same(right, compute(row, x, y, **arrays, **rest))
    place = (1, 2, 3)
    if operand == "target":
        y[place] = wrong
    else:
        arrays[operand][place] = wrong
    if ignored:
        if operand == "mask":
            return
        arrays["mask"][place] = 0
    call = call_of(x, y, check_targets=True, **arrays, **rest)
    outputs = Outputs(*(row.put(np.zeros_like(x)) if n != "total" else None for n in ("elements", "total", "gradient")))
    flags = row.kernel.compute(call, operands_of(row, x, y, **arrays), outputs)
    loss, gradient = row.get(outputs.elements), row.get(outputs.gradient)
    if row.name == "native":
        of_target = native.TARGET_OUT_OF_RANGE if operand == "target" else native.WRONG_TARGETS
        assert bool(flags & of_target) == (not ignored)
        return
    for array in (loss, gradient):
        assert np.argwhere(np.isnan(array)).tolist() == ([] if ignored else [list(place)])


@kernels
def test_boolean_and_integer_masks_are_never_wrong(row: Row) -> None:
    x, y = some("float32", target="uint8")
    for dtype in (bool, np.uint8, np.int64):
        mask = (np.random.default_rng(9).random(SHAPE) < 0.5).astype(dtype)
        assert_same(compute(row, x, y, mask=mask, check_targets=True), compute(row, x, y, mask=mask))
