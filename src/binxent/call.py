"""One call of the loss: all that shapes, dtypes and options decide, decided once.

A face hands its operands' shapes and dtypes to ``plan``, which refuses what does not fit and returns a ``Call``. From
there on, the kernels and the definition read the ``Call`` and the ``Operands``, and nobody asks the options again.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from binxent import options
from binxent.options import RefusalError

if TYPE_CHECKING:
    from binxent.formula import Loss
    from binxent.options import Terms

Shape = tuple[int, ...]  # a size that is not known yet is negative, or a compiler's symbol
Divisor = float | str

FLOATING = ("float16", "bfloat16", "float32", "float64")

# Divisors that only the operands' values, or sizes that are not known yet, can give.
KEPT = "kept"  # how many elements are not ignored
WEIGHTS = "weights"  # the sum of their weights
GIVEN = "given"  # the normalizer
SIZE = "size"  # how many elements there are
ROWS = "rows"  # how many entries the first axis has


class Operands(NamedTuple):
    """The arrays of one call, in the one order that faces, kernels and the definition share."""

    input: Any
    target: Any
    weight: Any = None
    sample_weight: Any = None  # of shape [N, 1, …, 1], so that it broadcasts like the others
    pos_weight: Any = None
    mask: Any = None
    label_smoothing: Any = None  # an array only where it is learnt; else a number, among the terms
    gamma: Any = None  # likewise
    normalizer: Any = None


class Call(NamedTuple):
    """What was asked for."""

    loss: Loss
    reduction: str
    dtype: str  # of the result
    terms: Terms | None  # None: nothing out of the ordinary
    divisor: Divisor
    any_target: bool = False  # of probabilities: a target outside [0, 1] is taken as it is


def result_dtype(input: str, target: str) -> str:
    """The wider of the two floating dtypes. An integer target never widens the input's, and a weight neither."""
    if target not in FLOATING or target == input:
        return input
    if {input, target} == {"float16", "bfloat16"}:
        return "float32"
    return max(input, target, key=FLOATING.index)


def selects(mask: object, terms: Terms | None) -> bool:
    """Whether a mask or ignore_index may leave elements out."""
    return mask is not None or (terms is not None and terms.ignore_index is not None)


def divisor(reduction: str, shape: Shape, *, selects: bool = False, weighted: bool = False) -> Divisor:
    """What the sum of the losses is divided by: a number, or the name of what will give it.

    An empty mean is 0/0 = NaN, as the frameworks have it; but where a mask or ignore_index selects, the mean of
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
    *,
    any_target: bool = False,
) -> Call:
    """Return the call that dtypes (of input and target), shapes and options ask for; refuse what does not fit.

    ``known_plan`` remembers it. A compiler, whose sizes are symbols, asks this one.
    """
    options.check_reduction(reduction)
    if target != shape:
        raise RefusalError("target", f"shape {tuple(target)} must be the same as the input's, {tuple(shape)}")
    if weight is not None:
        options.check_broadcast("weight", weight, shape)
    if sample_weight is not None:
        options.check_sample_weight(sample_weight, shape)
    if pos_weight is not None:
        options.check_broadcast("pos_weight", pos_weight, shape)
    if mask is not None:
        options.check_broadcast("mask", mask, shape)
    terms = options.terms(ignore_index, label_smoothing, gamma, dtypes[1])
    weighted = weight is not None or sample_weight is not None
    by = divisor(reduction, shape, selects=selects(mask, terms), weighted=weighted)
    return Call(loss, reduction, result_dtype(*dtypes), terms, by, any_target)


# The same call is made at each step. ``typed``: True equals 1, and only one of them is a number to us.
known_plan = functools.lru_cache(maxsize=256, typed=True)(plan)
