"""Computes the definition in graphs, with operands one by one: MindSpore's compiler cannot make a named tuple.

A tuple that holds None would be shorter, but MindSpore 2.10 ends the process at some graphs that have one.
``test_mindspore_options.py`` compares its bits with those of ``binxent.definition``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import Tensor, ops

from binxent import definition, formula
from binxent.mindspore.arrays import ARRAYS, column
from binxent.mindspore.operands import FLOATING, NAME
from binxent.options import Terms

if TYPE_CHECKING:
    from binxent.call import Call


def _column(sample_weight: Tensor | None, input: Tensor) -> Tensor | None:
    """The weights as a column, in the arithmetic's type: on CPU a graph cannot reshape bfloat16."""
    return None if sample_weight is None else column(ARRAYS.widen(sample_weight, ""), input)


def _number(normalizer: Tensor | None) -> Tensor | None:
    """The normalizer in the arithmetic's type, without axes and without a gradient."""
    return None if normalizer is None else ops.stop_gradient(ARRAYS.widen(normalizer, "").reshape(()))


@ops.constexpr(check=False)
def _name(dtype: object) -> str:
    return NAME[dtype]


def loss(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | None,
    neg_weight: Tensor | None,
) -> Tensor:
    terms = call.terms or Terms()
    keep = definition.kept(ARRAYS, ARRAYS.widen(target, call.dtype), mask, terms.ignore_index)
    x, y = definition.seen(ARRAYS, call, keep, input), definition.seen(ARRAYS, call, keep, target)
    w = definition.seen(ARRAYS, call, keep, weight)
    w = definition.product(w, definition.seen(ARRAYS, call, keep, _column(sample_weight, input)))
    if call.checks_targets:
        x = definition.nan_of_wrong(ARRAYS, call, x, y, pos_weight, mask, neg_weight, keep)
    up, down = definition.shares(call)
    p = definition.scaled(ARRAYS, definition.seen(ARRAYS, call, keep, pos_weight), up, x)
    q = definition.scaled(ARRAYS, definition.seen(ARRAYS, call, keep, neg_weight), down, x)
    each = formula.only(ARRAYS, keep, call.loss.loss(ARRAYS, x, y, w, p, terms.label_smoothing, terms.gamma, q))
    if call.reduction == "none":
        return ARRAYS.cast(each, call.dtype)
    return ARRAYS.cast(definition.divide(ARRAYS, call, ops.sum(each), x, w, keep, _number(normalizer)), call.dtype)


def gradient(
    call: Call,
    name: str,
    operand: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | None,
    neg_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    """The gradient to the operand of that name."""
    if operand is None:
        return None
    if operand.dtype not in FLOATING:
        return ops.zeros_like(operand)
    terms = call.terms or Terms()
    keep = definition.kept(ARRAYS, ARRAYS.widen(target, call.dtype), mask, terms.ignore_index)
    x, y = definition.seen(ARRAYS, call, keep, input), definition.seen(ARRAYS, call, keep, target)
    w = definition.seen(ARRAYS, call, keep, weight)
    s = definition.seen(ARRAYS, call, keep, _column(sample_weight, input))
    up, down = definition.shares(call)
    p = definition.scaled(ARRAYS, definition.seen(ARRAYS, call, keep, pos_weight), up, x)
    q = definition.scaled(ARRAYS, definition.seen(ARRAYS, call, keep, neg_weight), down, x)
    n = _number(normalizer)
    slope = definition.derivative(ARRAYS, call, name, x, y, w, s, p, terms.label_smoothing, terms.gamma, n, keep, q)
    incoming = ARRAYS.widen(incoming, call.dtype)
    factor = definition.divide(ARRAYS, call, incoming, x, definition.product(w, s), keep, n)
    each = formula.only(ARRAYS, keep, factor * slope)
    if name == "sample_weight":
        total = ARRAYS.like(each, _column(operand, input)).reshape(-1)
    else:
        total = ARRAYS.like(each, operand)
    return definition.saturated(ARRAYS, call, total, _name(operand.dtype))


def means(
    axes: tuple[int, ...], losses: Tensor, target: Tensor, mask: Tensor | None, ignore_index: float | None
) -> Tensor:
    """The means of the losses over these axes, of what is kept there; 0 where nothing is."""
    each = ARRAYS.widen(losses, "")
    keep = definition.kept(ARRAYS, ARRAYS.widen(target, ""), mask, ignore_index)
    counts = formula.only(ARRAYS, keep, ops.zeros_like(each) + 1)
    if axes:
        each, counts = ops.sum(each, axes), ARRAYS.widen(ops.sum(counts.astype(ms.int64), axes), "")
    return formula.divided(ARRAYS, each, counts).astype(losses.dtype)
