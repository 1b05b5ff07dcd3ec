"""The loss in a static graph, where a dimension may be unknown (−1) until it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
import paddle.nn.functional as F  # noqa: N812

from binxent.call import Operands
from binxent.paddle import arrays
from binxent.paddle.operands import check, planned, split_options

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


def compute(loss: Loss, reduction: str, given: Given, numbers: Numbers) -> Any:
    """The loss. Its graph checks what is still unknown when it runs."""
    check(loss, given, paddle.pir.Value, TypeError, TypeError)  # type: ignore[attr-defined]
    x, y, weight, sample_weight, p, mask = given
    numbers, learnt = split_options(numbers)
    shape = tuple(x.shape)

    def settled(operand: Any, to: Shape) -> Shape:
        """The shape that the operand must have, if it may have it; else its own, which the plan refuses."""
        fits = len(operand.shape) == len(to) and all(
            a == b or -1 in (a, b) for a, b in zip(operand.shape, to, strict=True)
        )
        return to if fits else tuple(operand.shape)

    def known(operand: Any) -> Shape | None:
        """The operand's shape; if that is unknown, (), which the plan accepts."""
        if operand is None:
            return None
        return tuple(operand.shape) if -1 not in (*shape, *operand.shape) or len(operand.shape) > len(shape) else ()

    shapes = (
        shape,
        settled(y, shape),
        None if weight is None else (),  # it may enlarge the result
        None if sample_weight is None else settled(sample_weight, shape[:1]),
        known(p),
        known(mask),
    )
    call = planned(loss, reduction, given, shapes, numbers)
    if -1 in (*shape, *y.shape):
        y = paddle.reshape(y, _shape_of_both(x, y))
    if p is not None and known(p) == () and arrays.may_enlarge(p.shape, shape):
        p = paddle.expand(p, paddle.shape(x))  # refuses, when it runs, one that would
    if mask is not None and known(mask) == ():
        # It refuses, when it runs, a mask that would enlarge the input, and here one that could learn.
        mask = paddle.expand(arrays.constant(mask), paddle.shape(x))
    if sample_weight is not None:
        # Refuses, when it runs, another number of them, where the formula would broadcast a single one.
        first = paddle.shape(x)[0] if shape[0] == -1 else shape[0]
        sample_weight = paddle.reshape(sample_weight, [first, *[1] * (len(shape) - 1)])
    return arrays.loss(call, Operands(x, y, weight, sample_weight, p, mask, **learnt))
