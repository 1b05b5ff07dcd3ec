"""Says what a case must give: the definition in 80-bit numbers, and for one element of each call mpmath's textbook.

A result is wrong if it is farther from the definition than docs/accuracy.md allows, if it was refused without a reason,
or not refused with one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np

from binxent import formula, kernel
from binxent.call import result_dtype
from tests import reference
from tests.fuzz.cases import Case
from tests.reference import DTYPES, PRECISION, Array, Expected, tolerance, ulp
from tests.test_focal import promised

LARGEST_GAMMA_IN_FLOAT = 5.0
PRODUCTS = ("weight", "pos_weight", "neg_weight", "sample_weight", "label_smoothing", "alpha")  # each rounds once more


@dataclass(frozen=True)
class Normalized(Expected):
    normalizer: float = 1.0

    def divisor(self, reduction: str) -> float:
        return self.normalizer


def definition(case: Case) -> Expected:
    options = {name: np.longdouble(o) if isinstance(o, float) else o for name, o in case.options.items()}
    normalizer = options.pop("normalizer", None)
    found = reference.expected(case.input, case.target, probabilities=case.probabilities, wide=np.longdouble, **options)
    if normalizer is not None:
        number = float(np.asarray(normalizer).reshape(()))
        return Normalized(**{**vars(found), "selects": True}, normalizer=number)
    # What is measured may be 0, and gives 0 then. The number of rows is no measure: without a row its mean is NaN.
    weighted = case.reduction == "weighted_mean" and bool({"weight", "sample_weight"} & {*options})
    return replace(found, selects=(found.selects or weighted) and case.reduction != "batchmean")


def kept(case: Case) -> Array:
    mask = case.options.get("mask")
    found = formula.kept(
        np.asarray(case.target).astype(np.longdouble),
        None if mask is None else mask != 0,
        case.options.get("ignore_index"),
    )
    return np.broadcast_to(True if found is None else found, case.input.shape)


def is_outside(case: Case, *, any_target: bool = False) -> bool:
    """Whether an element that is not ignored is no probability, for which the call is refused."""
    if not case.probabilities:
        return False
    keep = kept(case)
    values = (np.asarray(a).astype(np.longdouble)[keep] for a in (case.input, case.target)[: 1 if any_target else 2])
    return not all(bool(((v >= 0) & (v <= 1)).all()) for v in values)


def may_not_be_out(case: Case, place: Array) -> bool:
    """Whether the gradient cannot be written there: another dtype, or memory that is shared."""
    if place.shape != case.input.shape or place.dtype != case.input.dtype.newbyteorder("="):
        return True
    if place.size == 0:
        return False
    starts = np.zeros((1,) * place.ndim, np.int64)
    for axis, (size, step) in enumerate(zip(place.shape, place.strides, strict=True)):
        starts = starts + (np.arange(size) * step).reshape([-1 if d == axis else 1 for d in range(place.ndim)])
    return place is case.target or len(np.unique(starts)) < place.size


def close(actual: Array, exact: Array, off: Array, dtype: str) -> Array:
    """Whether each is within ``off``, or infinite where what is that near would round to infinity."""
    actual = np.asarray(actual).astype(np.longdouble)
    precision = PRECISION[dtype]
    beyond = np.longdouble(precision.largest) * (1 + np.ldexp(np.longdouble(1), -precision.digits))
    with np.errstate(invalid="ignore"):
        near = np.abs(actual - exact) <= off
        overflows = np.isinf(actual) & (np.sign(actual) == np.sign(exact)) & (np.abs(exact) + off >= beyond)
    return near | overflows | (actual == exact) | (np.isnan(actual) & np.isnan(exact))


@dataclass(frozen=True)
class Accuracy:
    """What may be wanting: in ulp of the larger term, in the arithmetic's type."""

    ulps: Array
    computed_in: str

    @classmethod
    def of(cls, case: Case, found: Expected) -> Accuracy:
        gamma = float(case.options.get("gamma", 0.0))
        mask = case.options.get("mask")
        wide = "float64" in (case.input.dtype.name, case.target.dtype.name) or gamma > LARGEST_GAMMA_IN_FLOAT
        wide = wide or (mask is not None and mask.dtype == np.float64)
        y = np.asarray(case.target).astype(np.float64)
        # A loss scale or divisor that is no power of two is rounded, and so is its product: it is allowed everywhere.
        kind = {
            "hard": bool(np.all((y == 0) | (y == 1))),
            "weights": sum(name in case.options for name in PRODUCTS),
            "outside": not np.all((y >= 0) & (y <= 1)),
            "scaled": True,
        }
        ulps = tolerance(kernel.instruction_set, **kind) + found.amplified + (gamma > 0)  # the power is one factor more
        if gamma and not wide:
            plain = tolerance(kernel.instruction_set, hard=kind["hard"])
            focal = promised(gamma, kernel.instruction_set, hard=kind["hard"])
            ulps = np.minimum(ulps, tolerance(kernel.instruction_set, **kind) - plain + focal)
        return cls(np.broadcast_to(ulps, case.input.shape), "float64" if wide else "float32")

    def elements(self, exact: Array, larger: Array, dtype: str) -> Array:
        larger = np.maximum(np.abs(exact), np.where(np.isfinite(larger), larger, 0))
        safe = np.where(np.isfinite(larger), larger, 1)
        off = self.ulps * ulp(safe, self.computed_in)
        if dtype != self.computed_in:
            off = off + ulp(np.where(np.isfinite(exact), exact, 1), dtype) / 2
        return np.asarray(off)


def shown_worst(name: str, actual: Array, exact: Array, off: Array, fine: Array) -> str:
    index = tuple(int(i) for i in np.argwhere(~fine)[0]) if fine.ndim else ()
    return f"{name}{list(index)} is {np.asarray(actual)[index]!s}, expected {exact[index]!s} ± {off[index]:.3g}"


def check(case: Case, loss: Array, gradient: Array, incoming: float = 1.0) -> None:
    """Raises AssertionError where a result is not what the definition allows."""
    found = definition(case)
    accuracy = Accuracy.of(case, found)
    result = result_dtype(case.input.dtype.name, case.target.dtype.name)
    loss, gradient = np.asarray(loss), np.asarray(gradient)
    assert loss.dtype == DTYPES[result], f"the loss has dtype {loss.dtype}, expected {result}"
    assert gradient.dtype == DTYPES[case.input.dtype.name]
    assert gradient.shape == case.input.shape, f"the gradient has shape {gradient.shape}"
    with np.errstate(all="ignore"):
        exact = np.asarray(found.value(case.reduction))
        if case.reduction == "none":
            off = accuracy.elements(exact, found.larger_loss, result)
        else:
            terms = accuracy.elements(found.loss, found.larger_loss, accuracy.computed_in)
            off = np.asarray(terms.sum() / (found.divisor(case.reduction) or 1))
            off = off + ulp(np.where(np.isfinite(exact), exact, 1), result)
        assert loss.shape == exact.shape, f"the loss has shape {loss.shape}, expected {exact.shape}"
        fine = close(loss, exact, off, result)
        assert fine.all(), shown_worst("loss", loss, exact, off, fine)

        factor = np.longdouble(incoming) / (found.divisor(case.reduction) or 1)
        nothing = found.selects and found.divisor(case.reduction) == 0
        exact, larger = found.gradient * factor, found.larger_gradient * abs(factor)
        if nothing:
            exact, larger = found.gradient * 0, np.zeros_like(larger)  # which hides no NaN
        own = case.input.dtype.name
        off = accuracy.elements(exact, larger, own)
        if case.probabilities and own == "float16":  # it saturates
            exact = np.clip(exact, -PRECISION[own].largest, PRECISION[own].largest)
        fine = close(gradient, exact, off, own)
        assert fine.all(), shown_worst("gradient", gradient, exact, off, fine)


# The textbook

TEXTBOOK = {False: reference.textbook_logits_loss, True: reference.textbook_probabilities_loss}
FARTHEST = 1000  # logits; each digit of the exponential is one more that mpmath computes with


def check_definition(case: Case) -> bool:
    """Compares one element of the definition with the textbook. False where none is finite and near enough."""
    names = {"label_smoothing": "smoothing", "gamma": "gamma"}
    textbook = TEXTBOOK[case.probabilities]
    keep = kept(case).reshape(-1)
    x = np.asarray(case.input).astype(np.longdouble).reshape(-1)
    y = np.asarray(case.target).astype(np.longdouble).reshape(-1)
    places = np.flatnonzero(keep & np.isfinite(x) & np.isfinite(y) & (np.abs(x) <= FARTHEST))
    if case.probabilities:
        places = places[(x[places] >= 0) & (x[places] <= 1)]
    unknown = {*case.options} - {"weight", "pos_weight", "sample_weight", "mask", "ignore_index", "normalizer", *names}
    if len(places) == 0 or unknown:
        return False
    place = int(places[case.number % len(places)])
    found = definition(case)
    weight = {name: exactly(element(case, name, place)) for name in ("weight", "sample_weight", "pos_weight")}
    numbers = {new: exactly(np.longdouble(case.options.get(old, 0))) for old, new in names.items()}
    given = [exactly(y[place]), weight["weight"] * weight["sample_weight"], weight["pos_weight"]]
    with mpmath.workdps(digits_for(x[place], case.probabilities)):
        exact = textbook(exactly(x[place]), *given, **numbers)
        step = mpmath.mpf(10) ** -25
        compare(found.loss, found.larger_loss, exact, place, found, "loss")
        inside = min(x[place], 1 - x[place]) > 1e-11 if case.probabilities else True  # where nothing is clamped
        if inside:
            slope = (
                textbook(exactly(x[place]) + step, *given, **numbers)
                - textbook(exactly(x[place]) - step, *given, **numbers)
            ) / (2 * step)
            compare(found.gradient, found.larger_gradient, slope, place, found, "gradient")
    return True


def digits_for(x: Any, probabilities: bool) -> int:
    """Enough for the difference of 1 and a probability that is nearly 0 or 1."""
    if not probabilities:
        return 60 + math.ceil(abs(float(x)))
    return 60 + math.ceil(0.31 * abs(int(np.frexp(x)[1])))


def compare(found: Array, larger: Array, exact: Any, place: int, whole: Expected, name: str) -> None:
    value, size = found.reshape(-1)[place], np.maximum(np.abs(found), larger).reshape(-1)[place]
    if not np.isfinite(value) or not np.isfinite(size):
        return
    amplified = float(np.broadcast_to(whole.amplified, found.shape).reshape(-1)[place])
    off = abs(exactly(value) - exact)
    nothing = mpmath.mpf(2) ** -2200  # below any product of doubles
    allowed = (64 + 2 * amplified) * mpmath.mpf(2) ** -63 * exactly(size) + nothing
    assert off <= allowed, f"the definition's {name} is {value!r}, mpmath's {mpmath.nstr(exact, 25)}"


def exactly(value: Any) -> Any:
    """An 80-bit number, whole."""
    mantissa, exponent = np.frexp(np.longdouble(value))
    high = np.floor(np.ldexp(mantissa, 32))
    low = np.ldexp(np.ldexp(mantissa, 32) - high, 32)
    return mpmath.ldexp(mpmath.mpf(int(high)) * 2**32 + int(low), int(exponent) - 64)


def element(case: Case, name: str, place: int) -> Array:
    """What the option is for the element of that place; 1 where it is not given."""
    option = case.options.get(name)
    if option is None:
        return np.longdouble(1)
    if name == "sample_weight":
        option = option.reshape((-1,) + (1,) * (case.input.ndim - 1))
    return np.broadcast_to(option, case.input.shape).reshape(-1)[place].astype(np.longdouble)
