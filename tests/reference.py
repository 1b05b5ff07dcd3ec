"""What the tests and the benchmarks compare with, and how they measure: one definition, one unit, one tolerance table.

The reference is ``binxent.formula`` in a wider type than what is tested: float64 for what is computed in float32,
longdouble for float64. ``test_formula.py`` checks it against mpmath, which the definitions at the end of this file
take from the textbook, with no thought of stability.

Errors are counted in ulp (the spacing of the tested type) of the larger of the two terms that a loss or a gradient
adds; where the target is hard, that is the result itself. A difference of two terms has no relative accuracy at its
zero, so nothing could be asked of it in ulp of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np

from binxent import formula

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
INTEGER_TARGETS = ("bool", "uint8", "int8", "int16", "int32", "int64")

# In ulp, with targets 0 and 1, and with soft ones in [0, 1]. The baseline instruction set has no fused multiply-add and
# rounds each product by itself.
TOLERANCE = {"baseline": (3.0, 4.0), "avx2": (2.0, 3.0), "avx512": (2.0, 3.0), "neon": (2.0, 3.0)}
WITHOUT_KERNEL = (4.0, 5.0)  # of the definition in NumPy's operations, each of which rounds by itself
WEIGHTED = 1.0  # more, for the products with weight and pos_weight
FURTHER = 0.5  # more, for each weight besides these two: one more product
OUTSIDE = 1.0  # more, for a target outside [0, 1], whose two coefficients do not share a whole
SCALED = 1.5  # more, for a factor (1/N, a loss scale) that is no power of two: it is rounded, and so is its product


def tolerance(
    instruction_set: str, *, hard: bool = False, weights: int = 0, outside: bool = False, scaled: bool = False
) -> float:
    """``weights`` counts them, the pos_weight too."""
    more = WEIGHTED * (weights > 0) + FURTHER * max(0, weights - 2)
    known = TOLERANCE.get(instruction_set, WITHOUT_KERNEL)
    return known[0 if hard else 1] + more + OUTSIDE * outside + SCALED * scaled


@dataclass(frozen=True)
class Precision:
    """Digits of the significand, the exponent of the smallest subnormal, the largest finite number."""

    digits: int
    lowest: int
    largest: float


PRECISION = {
    "float64": Precision(53, -1074, float(np.finfo(np.float64).max)),
    "float32": Precision(24, -149, float(np.finfo(np.float32).max)),
    "bfloat16": Precision(8, -133, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)),
    "float16": Precision(11, -24, 65504.0),
}


def ulp(value: Array, dtype: str) -> Array:
    """The spacing of ``dtype`` at each value: never less than its smallest subnormal."""
    precision = PRECISION[dtype]
    _, exponent = np.frexp(value)
    one = np.ones_like(value, dtype=np.longdouble)
    exponent = np.where(value == 0, precision.lowest, exponent - precision.digits)
    return np.ldexp(one, np.maximum(exponent, precision.lowest))


def error(actual: Array, exact: Array, larger: Array, dtype: str) -> Array:
    """|actual − exact| in ulp of the larger term. 0 for the same infinity or two NaN, inf for unlike ones."""
    actual, exact = np.asarray(actual).astype(np.longdouble), np.asarray(exact, np.longdouble)
    finite = np.isfinite(actual) & np.isfinite(exact)
    safe = np.where(finite, exact, 1)
    unit = ulp(np.maximum(np.abs(safe), np.where(np.isfinite(larger), larger, 0)), dtype)
    off = np.abs(np.where(finite, actual, 1) - safe) / unit
    alike = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
    overflows = np.isinf(actual) & (np.abs(exact) > PRECISION[dtype].largest) & (np.sign(actual) == np.sign(exact))
    return np.where(finite, off, np.where(alike | overflows, 0, np.inf)).astype(np.float64)


def rounded(value: Array, dtype: str) -> Array:
    """float64 or float32 values, rounded once to the nearest of ``dtype``, ties to even.

    ``astype`` alone would not do: from float64, ml_dtypes goes to bfloat16 through float32 and rounds twice.
    """
    value = np.asarray(value).astype(np.float64)
    finite = np.isfinite(value)
    unit = ulp(np.where(finite, value, 1), dtype).astype(np.float64)
    nearest = np.where(finite, np.rint(np.where(finite, value, 1) / unit) * unit, value)
    nearest = np.copysign(nearest, value)
    return np.where(np.abs(nearest) > PRECISION[dtype].largest, np.copysign(np.inf, value), nearest).astype(
        DTYPES[dtype]
    )


def bits(array: Array) -> Array:
    """The raw bits, with every NaN made the same: which NaN it is has no meaning."""
    array = np.ascontiguousarray(array)
    raw = array.view(f"u{array.dtype.itemsize}").copy()
    with np.errstate(invalid="ignore"):
        raw[np.isnan(array.astype(np.float64))] = np.iinfo(raw.dtype).max
    return raw


@dataclass(frozen=True)
class Expected:
    """Loss and gradient of each element, not yet divided, and the larger term of each."""

    loss: Array
    gradient: Array
    larger_loss: Array
    larger_gradient: Array
    amplified: Array  # ulp more, where gamma is the exponent of what is rounded before
    kept: float  # how many elements are not ignored
    kept_weight: float  # the sum of their weights
    selects: bool  # whether an element could be ignored

    def divisor(self, reduction: str) -> float:
        if reduction == "batchmean":
            return self.loss.shape[0]
        return {"mean": self.kept, "weighted_mean": self.kept_weight}.get(reduction, 1)

    def value(self, reduction: str) -> Any:
        if reduction == "none":
            return self.loss
        if self.divisor(reduction) == 0 and (self.selects or self.loss.size):
            return np.longdouble(0)
        with np.errstate(invalid="ignore"):
            return self.loss.sum() / np.longdouble(self.divisor(reduction))

    def gradient_of(self, reduction: str) -> Array:
        return self.gradient / (self.divisor(reduction) or 1)


def expected(
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    neg_weight: Array | None = None,
    *,
    probabilities: bool = False,
    wide: Any = np.float64,
) -> Expected:
    """The definition in ``wide``, for operands of any dtype."""
    x, target = np.asarray(x).astype(wide), np.asarray(target).astype(wide)
    weight = np.asarray(1 if weight is None else weight).astype(wide)
    share, rest = (wide(1), wide(1)) if alpha is None else (wide(alpha), 1 - wide(alpha))
    pos_weight = np.asarray(1 if pos_weight is None else pos_weight).astype(wide) * share
    neg_weight = np.asarray(1 if neg_weight is None else neg_weight).astype(wide) * rest
    if sample_weight is not None:
        weight = weight * np.asarray(sample_weight).astype(wide).reshape((-1,) + (1,) * (x.ndim - 1))
    one = np.ones_like(x)
    weight = weight * one
    keep = formula.kept(target, None if mask is None else np.asarray(mask) != 0, ignore_index)
    if keep is not None:
        keep = np.broadcast_to(keep, x.shape)
    x, target, weight = (formula.only(np, keep, operand) for operand in (x, target, weight))
    kept = one.size if keep is None else int(keep.sum())
    if probabilities:
        loss, gradient = formula.probabilities_loss, formula.probabilities_gradient
    else:
        loss, gradient = formula.logits_loss, formula.logits_gradient
    with np.errstate(all="ignore"):
        # The terms are those of the targets 1 and 0, times their coefficients.
        terms = {"label_smoothing": label_smoothing, "gamma": gamma, "neg_weight": neg_weight}
        # Of a target outside [0, 1] smoothing may leave nothing but what was rounded: what it adds counts by its size.
        shares = (formula.smoothed(np.abs(y), label_smoothing) for y in (target, 1 - target))
        positive, negative = (np.abs(weight * p) * y for p, y in zip((pos_weight, neg_weight), shares, strict=True))
        at_1, at_0 = ((x, y, None, None, 0.0, gamma) for y in (one, 0 * one))
        return Expected(
            loss(np, x, target, weight, pos_weight, **terms),
            gradient(np, x, target, weight, pos_weight, **terms),
            np.maximum(positive * loss(np, *at_1), negative * loss(np, *at_0)),
            np.maximum(positive * np.abs(gradient(np, *at_1)), negative * np.abs(gradient(np, *at_0))),
            2 * gamma * np.where(np.isfinite(x), np.maximum(loss(np, x, one), loss(np, x, 0 * one)), 0),
            kept,
            weight.sum(),
            mask is not None or ignore_index is not None,
        )


def assert_close(
    actual: Any,
    exact: Any,
    larger: Any,
    dtype: str,
    *,
    allowed: float | Array,
    computed_in: str = "float32",
) -> None:
    """Elementwise: within ``allowed`` ulp of the arithmetic's type, and half an ulp of a narrower result."""
    actual = np.asarray(actual)
    assert actual.dtype == DTYPES[dtype], f"dtype {actual.dtype}, expected {dtype}"
    assert actual.shape == np.shape(exact), f"shape {actual.shape}, expected {np.shape(exact)}"
    larger = np.maximum(np.abs(exact), np.nan_to_num(larger, posinf=0))
    if dtype != computed_in:
        ratio = ulp(larger, computed_in) / ulp(np.where(np.isfinite(exact), exact, 1), dtype)
        off = error(actual, exact, np.abs(exact), dtype) - 0.5 - (allowed * ratio).astype(np.float64)
    else:
        off = error(actual, exact, larger, dtype) - allowed
    worst = np.unravel_index(np.argmax(off), off.shape) if off.size else ()
    assert not off.size or off[worst] <= 0, f"{off[worst]:.3f} ulp too far: {actual[worst]!r} for {exact[worst]!r}"


def assert_reduced_close(
    actual: Any,
    reference: Expected,
    reduction: str,
    dtype: str,
    *,
    allowed: float | Array,
    computed_in: str = "float32",
) -> None:
    """A sum or mean: within what its elements may be off by, and one ulp of its own."""
    actual = np.asarray(actual)
    assert actual.dtype == DTYPES[dtype], f"dtype {actual.dtype}, expected {dtype}"
    assert actual.shape == (), f"shape {actual.shape}, expected a scalar"
    exact = reference.value(reduction)
    if not np.isfinite(exact):
        np.testing.assert_equal(float(actual), float(exact))
        return
    if np.abs(exact) > PRECISION[dtype].largest:
        assert np.isinf(actual.astype(np.float64))
        return
    largest = np.maximum(reference.larger_loss, np.abs(reference.loss))
    allowed = (allowed * ulp(largest, computed_in)).sum() / (reference.divisor(reduction) or 1)
    allowed = allowed + ulp(np.asarray(exact), dtype)
    off = abs(actual.astype(np.longdouble) - exact)
    assert off <= allowed, f"{actual!r} for {exact!r}: off by {off}, allowed {allowed}"


# The textbook, in as many digits as it takes: exp(−100) needs 44 beyond those of the result.
mpmath.mp.dps = 80


def textbook_logits_loss(x: Any, y: Any, w: Any = 1, p: Any = 1, smoothing: Any = 0, gamma: Any = 0) -> Any:
    sigma = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
    y = mpmath.mpf(y) * (1 - smoothing) + mpmath.mpf(smoothing) / 2
    return -mpmath.mpf(w) * (
        mpmath.mpf(p) * y * (1 - sigma) ** gamma * mpmath.log(sigma) + (1 - y) * sigma**gamma * mpmath.log(1 - sigma)
    )


def textbook_probabilities_loss(q: Any, y: Any, w: Any = 1, p: Any = 1, smoothing: Any = 0, gamma: Any = 0) -> Any:
    q = mpmath.mpf(q)
    y = mpmath.mpf(y) * (1 - smoothing) + mpmath.mpf(smoothing) / 2
    minus_log = mpmath.mpf(100) if q == 0 else min(-mpmath.log(q), mpmath.mpf(100))
    minus_log1m = mpmath.mpf(100) if q == 1 else min(-mpmath.log(1 - q), mpmath.mpf(100))
    # Of a logarithm that is clamped the power is 0, as docs/options.md says.
    of_wrong = mpmath.mpf(0) if gamma and minus_log1m == 100 else (1 - q) ** gamma
    of_right = mpmath.mpf(0) if gamma and minus_log == 100 else q**gamma
    return mpmath.mpf(w) * (mpmath.mpf(p) * y * of_wrong * minus_log + (1 - y) * of_right * minus_log1m)
