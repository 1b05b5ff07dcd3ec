"""Plans a call of the loss: everything that shapes, dtypes and options decide is decided here, once.

A face hands its operands' shapes and dtypes to ``plan``, which refuses what does not fit and returns a ``Call``. From
there on the kernels and the definition read the ``Call`` and the ``Operands``, and never the options again.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from binxent import options
from binxent.options import NO_FOCAL, RefusalError

if TYPE_CHECKING:
    from binxent.formula import Loss
    from binxent.options import Focal, Terms

Shape = tuple[int, ...]  # an unknown size is negative, or a compiler's symbol
Divisor = float | str

FLOATING = ("float16", "bfloat16", "float32", "float64")

# Divisors that follow only from the operands' values, or from sizes that are still unknown.
KEPT = "kept"  # how many elements the mask and ignore_index keep
WEIGHTS = "weights"  # the sum of their weights
GIVEN = "given"  # the normalizer
SIZE = "size"  # how many elements there are
ROWS = "rows"  # how many entries the first axis has


class Operands(NamedTuple):
    """The arrays of one call, in the one order that faces, kernels and the definition share."""

    input: Any
    target: Any  # an array of the input's shape, or SparseRows of that shape
    weight: Any = None
    sample_weight: Any = None  # of shape [N, 1, …, 1], so that it broadcasts like the others
    pos_weight: Any = None
    mask: Any = None
    label_smoothing: Any = None  # an array where it is learnt; a number is among the call's terms instead
    gamma: Any = None  # likewise
    normalizer: Any = None
    neg_weight: Any = None


class Call(NamedTuple):
    """What one call computes. It is hashable, and made once for the same shapes, dtypes and options."""

    loss: Loss
    reduction: str
    dtype: str  # of the result
    terms: Terms | None  # None: every option has its default
    divisor: Divisor
    any_target: bool = False  # for probabilities: whether a target outside [0, 1] is accepted
    checks_targets: bool = False  # whether targets, pos_weight, neg_weight and mask are checked, of logits too


def result_dtype(input: str, target: str) -> str:
    """The wider of the two floating dtypes. An integer target does not widen the input's, and no weight does."""
    if target not in FLOATING or target == input:
        return input
    if {input, target} == {"float16", "bfloat16"}:
        return "float32"
    return max(input, target, key=FLOATING.index)


def selects(mask: object, terms: Terms | None) -> bool:
    """Whether a mask or ignore_index may leave elements out."""
    return mask is not None or (terms is not None and terms.ignore_index is not None)


def divisor(reduction: str, shape: Shape, *, selects: bool = False, weighted: bool = False) -> Divisor:
    """Returns what the sum of the losses is divided by: a number, or the name of what will give it.

    An empty mean is 0/0 = NaN, as in the frameworks. But where a mask or ignore_index selects elements, the mean of
    nothing is 0.
    """
    if reduction == "weighted_mean" and weighted:
        return WEIGHTS
    if reduction in ("mean", "weighted_mean"):
        if selects:
            return KEPT
        return math.prod(shape) if _known(shape) else SIZE
    if reduction == "batchmean":
        if not shape:
            raise RefusalError("reduction", "'batchmean' of an input without a first axis; expected one, or use 'sum'")
        return shape[0] if _known(shape[:1]) else ROWS
    return 1.0


def averaged_axes(reduction: str, dims: int) -> tuple[int, ...]:
    """The axes over which ``"per_label"`` and ``"per_sample"`` take the mean: all but the last, and all but the first.

    An input of one axis is that of one label, whose mean is a number.
    """
    if reduction == "per_label":
        return tuple(range(max(dims - 1, min(dims, 1))))
    if not dims:
        raise RefusalError("reduction", "'per_sample' of an input without a first axis; expected one")
    return tuple(range(1, dims))


def normalized(call: Call, number: float | None) -> Call:
    """The call that divides by a normalizer: a number, or, where that is 0 or not known, the operand of that name.

    A divisor that is the number 0 belongs to an empty mean, and gives NaN; a normalizer of 0 gives 0.
    """
    return call._replace(divisor=number or GIVEN)


def _known(shape: Shape) -> bool:
    return all(type(size) is int and size >= 0 for size in shape)


def plan(
    loss: Loss,
    reduction: str,
    dtypes: tuple[str, str],
    shape: Shape,
    target: Shape,
    weight: Shape | None = None,
    sample_weight: Shape | None = None,
    pos_weight: Shape | None = None,
    mask: Shape | None = None,
    ignore_index: object = None,
    label_smoothing: object = 0,
    gamma: object = 0,
    neg_weight: Shape | None = None,
    focal: Focal = NO_FOCAL,
    check_targets: bool = False,
    *,
    any_target: bool = False,
) -> Call:
    """Returns the call for these dtypes (of input and target), shapes and options; refuses what does not fit.

    ``known_plan`` caches the result. A compiler calls this function, because its symbolic sizes have no hash.
    """
    if options.check_reduction(reduction) in options.BY_AXIS:
        raise RefusalError("reduction", f"{reduction!r} is the mean of the losses of another call, for 'none'")
    if target != shape:
        raise RefusalError("target", f"shape {tuple(target)} must be the same as the input's, {tuple(shape)}")
    if weight is not None:
        options.check_broadcast("weight", weight, shape)
    if sample_weight is not None:
        options.check_sample_weight(sample_weight, shape)
    if pos_weight is not None:
        options.check_broadcast("pos_weight", pos_weight, shape)
    if neg_weight is not None:
        options.check_broadcast("neg_weight", neg_weight, shape)
    if mask is not None:
        options.check_broadcast("mask", mask, shape)
    terms = options.terms(ignore_index, label_smoothing, gamma, dtypes[1], focal)
    weighted = weight is not None or sample_weight is not None
    by = divisor(reduction, shape, selects=selects(mask, terms), weighted=weighted)
    return Call(loss, reduction, result_dtype(*dtypes), terms, by, any_target, bool(check_targets))


# ``typed`` tells True from 1, which are equal: True is no valid option, and must not find the plan of 1.
_remembered = functools.lru_cache(maxsize=256, typed=True)(plan)


def known_plan(*wanted: Any, **also: Any) -> Call:
    """Returns what ``plan`` returns. A training makes the same call at every step, and finding its plan is faster."""
    try:
        return _remembered(*wanted, **also)
    except TypeError:  # an array as an option, and a symbolic size, have no hash
        return plan(*wanted, **also)
