"""The loss in a static graph, where a dimension may be unknown (−1) until it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
import paddle.nn.functional as F  # noqa: N812

from binxent.call import Operands, normalized, plan
from binxent.formula import LOGITS
from binxent.paddle import arrays
from binxent.paddle.arrays import NAME
from binxent.paddle.operands import check, named, planned, split_normalizer, split_options

if TYPE_CHECKING:
    from binxent.call import Shape
    from binxent.formula import Loss
    from binxent.paddle.operands import Given, Numbers


def _shape_of_both(x: Any, y: Any) -> Any:
    """The shape of both. The graph raises Paddle's own ValueError, when it runs, if the two differ in shape.

    It computes Paddle's loss for the sake of the check in it, of tensors that hold nothing: a first axis of size 0 is
    put before their own axes.
    """

    def empty(like: Any) -> Any:
        shape = paddle.shape(like)
        return paddle.full(paddle.concat([paddle.full([1], 0, shape.dtype), shape]), 0, paddle.float32)

    return paddle.shape(F.binary_cross_entropy(empty(x), empty(y), reduction="none"))[1:]


def _settled(operand: Any, to: Shape) -> Shape:
    """The shape that the operand must have, if it may have it; else its own, which the plan refuses."""
    fits = len(operand.shape) == len(to) and all(a == b or -1 in (a, b) for a, b in zip(operand.shape, to, strict=True))
    return to if fits else tuple(operand.shape)


def _known(operand: Any, shape: Shape) -> Shape | None:
    """The operand's shape; if that is unknown beside this one, (), which the plan accepts."""
    if operand is None:
        return None
    return tuple(operand.shape) if -1 not in (*shape, *operand.shape) or len(operand.shape) > len(shape) else ()


def _fitting(operand: Any, x: Any) -> Any:
    """The operand of x's shape, where it might enlarge x: the graph refuses, when it runs, one that would."""
    shape = tuple(x.shape)
    if operand is None or _known(operand, shape) != () or not arrays.may_enlarge(operand.shape, shape):
        return operand
    return paddle.expand(operand, paddle.shape(x))


def _column(sample_weight: Any, x: Any) -> Any:
    """The weights in the shape [N, 1, …, 1].

    It refuses, when it runs, another number of them, where the formula would broadcast a single one.
    """
    first = paddle.shape(x)[0] if x.shape[0] == -1 else x.shape[0]
    return paddle.reshape(sample_weight, [first, *[1] * (len(x.shape) - 1)])


def compute(loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: Any) -> Any:
    """The loss. Its graph checks what is still unknown when it runs."""
    check(*named(loss, given), paddle.pir.Value, TypeError, TypeError)  # type: ignore[attr-defined]
    x, y, weight, sample_weight, p, mask, n = given
    numbers, learnt = split_options(numbers)
    shape = tuple(x.shape)

    shapes = (
        shape,
        _settled(y, shape),
        None if weight is None else (),  # it may enlarge the result
        None if sample_weight is None else _settled(sample_weight, shape[:1]),
        _known(p, shape),
        _known(mask, shape),
        _known(n, shape),
    )
    call = planned(loss, reduction, given, shapes, numbers)
    if -1 in (*shape, *y.shape):
        y = paddle.reshape(y, _shape_of_both(x, y))
    p, n = _fitting(p, x), _fitting(n, x)
    if mask is not None and _known(mask, shape) == ():
        # It refuses, when it runs, a mask that would enlarge the input, and here one that could learn.
        mask = paddle.expand(arrays.constant(mask), paddle.shape(x))
    if sample_weight is not None:
        sample_weight = _column(sample_weight, x)
    operands = Operands(x, y, weight, sample_weight, p, mask, neg_weight=n, **learnt)
    if normalizer is not None:
        number, divisor = split_normalizer(normalizer, reduction, call.dtype, False)
        call, operands = normalized(call, number), operands._replace(normalizer=divisor)
    return arrays.loss(call, operands)


def count(label: Any, reduction: str, mask: Any, ignore_index: float | None, weight: Any, sample_weight: Any) -> Any:
    """What a mean divides by. Its graph checks what is still unknown when it runs."""
    given = {"label": label, "weight": weight, "sample_weight": sample_weight, "mask": mask}
    check("count", given, paddle.pir.Value, TypeError, TypeError)  # type: ignore[attr-defined]
    shape = tuple(label.shape)
    shapes = (
        None if weight is None else (),  # it may enlarge the result
        None if sample_weight is None else _settled(sample_weight, shape[:1]),
        None,
        _known(mask, shape),
    )
    call = plan(LOGITS, reduction, ("float64", NAME[label.dtype]), shape, shape, *shapes, ignore_index)
    if mask is not None and _known(mask, shape) == ():
        mask = paddle.expand(mask, paddle.shape(label))  # refuses, when it runs, one that would enlarge the label
    if sample_weight is not None:
        sample_weight = _column(sample_weight, label)
    return arrays.count(call, Operands(label, label, weight, sample_weight, mask=mask))
