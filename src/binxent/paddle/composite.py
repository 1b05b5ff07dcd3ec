"""The loss made of Paddle's own differentiable operations.

It serves where the kernel cannot: static graphs, gradients of gradients, gradients to the label and the weights,
weights that enlarge the result, and other devices.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F  # noqa: N812
from paddle import Tensor

from binxent import formula, options

_LARGEST_FLOAT16 = 65504.0

# input, label, weights, pos_weight, mask
Operands = tuple[Any, Any, tuple[Any, ...], Any, Any]


def constant(x: Any) -> Any:
    """What is not differentiated. In a static graph a copy: Paddle computes in place, and forgets who shares memory."""
    if isinstance(x, Tensor):
        return x.detach()
    copy = paddle.assign(x)
    copy.stop_gradient = True
    return copy


class _Operations:
    """Paddle's operations, by the names that the formula has for them."""

    exp = staticmethod(paddle.exp)
    log = staticmethod(paddle.log)
    where = staticmethod(paddle.where)
    isinf = staticmethod(paddle.isinf)

    @staticmethod
    def zeros_like(x: Any) -> Any:
        """Paddle's own warns in a static graph."""
        return paddle.cast(x < x, x.dtype)

    @staticmethod
    def log1p(x: Any) -> Any:
        """Paddle's log1p has no second derivative; log(1 + x) has, but not the value: each gives what it has."""
        if x.stop_gradient:
            return paddle.log1p(x)
        log = paddle.log(1 + x)
        return paddle.log1p(constant(x)) + (log - constant(log))


def _wide(result: Any) -> Any:
    """The arithmetic's dtype: half precision is computed in float32 and rounded once, at the end."""
    return paddle.float64 if result == paddle.float64 else paddle.float32


def kept(label: Any, mask: Any, terms: options.Terms | None) -> Any:
    """Which elements are not ignored; None: all of them."""
    keep = None if mask is None else paddle.cast(mask, paddle.bool)  # NaN is true, and so is what is tiny
    if terms is None or terms.ignore_index is None:
        return keep
    return formula.kept(paddle.cast(label, _wide(label.dtype)), keep, terms.ignore_index)


def _converted(operands: Operands, terms: options.Terms | None, dtype: Any) -> tuple[Any, ...]:
    """Input, label, weight, pos_weight, with 0 for what is ignored; and which elements are kept."""
    input, label, weights, pos_weight, mask = operands
    keep = kept(label, mask, terms)

    def converted(operand: Any) -> Any:
        return formula.only(_Operations, keep, paddle.cast(operand, dtype))

    weight = None
    for each in map(converted, weights):
        weight = each if weight is None else weight * each
    return converted(input), converted(label), weight, None if pos_weight is None else converted(pos_weight), keep


class _Number(float):
    """A number that meets operands as a tensor: in a static graph Paddle rounds any other to float32."""

    def __neg__(self) -> Any:
        return paddle.full([], -float(self), paddle.float64)

    def __rsub__(self, other: float) -> Any:
        return paddle.full([], other - float(self), paddle.float64)

    def __truediv__(self, other: float) -> Any:
        return paddle.full([], float(self) / other, paddle.float64)

    def __mul__(self, other: Any) -> Any:
        return paddle.full([], float(self), paddle.float64) * other


def _changes(terms: options.Terms | None, x: Any) -> dict[str, Any]:
    """What the formula takes of them."""
    if terms is None:
        return {}
    number = float if isinstance(x, Tensor) or x.dtype != paddle.float64 else _Number
    return {"label_smoothing": number(terms.label_smoothing), "gamma": number(terms.gamma)}


def _saturated(gradient: Any) -> Any:
    """Of a float16 probability: 1e12 is beyond its range."""
    return paddle.clip(gradient, -_LARGEST_FLOAT16, _LARGEST_FLOAT16)


def _device(x: Any) -> str:
    """Where x is; of a value in a static graph, where that will run."""
    if isinstance(x, Tensor):
        return "cpu" if x.place.is_cpu_place() else "gpu" if x.place.is_gpu_place() else "another"
    return str(paddle.device.get_device()).partition(":")[0]


def _refusing(x: Any) -> Any:
    """x, from a static graph that raises Paddle's own ValueError, when it runs, if that is no probability.

    Paddle's loss is asked for the sake of its check, and adds 0: an assertion would be lost in a saved model. On an
    accelerator it would end the device's context.
    """
    if _device(x) != "cpu":
        return x
    fixed = constant(x)
    return x + 0 * F.binary_cross_entropy(fixed, fixed, reduction="none")


def shape_of_both(x: Any, y: Any) -> Any:
    """From a static graph that raises Paddle's own ValueError, when it runs, if the two differ in shape.

    Paddle's loss is asked for the sake of its check, of tensors that hold nothing: a first axis of size 0 comes before
    their own axes.
    """

    def empty(like: Any) -> Any:
        shape = paddle.shape(like)
        return paddle.full(paddle.concat([paddle.full([1], 0, shape.dtype), shape]), 0, paddle.float32)

    return paddle.shape(F.binary_cross_entropy(empty(x), empty(y), reduction="none"))[1:]


def _by_slope(loss: Any, slope: Any, x: Any, *rest: Any, **changes: Any) -> Any:
    """The loss with a gradient that is not that of its parts.

    For probabilities that is the frameworks', where the logarithms are clamped. With gamma an infinite logit has one
    part that is infinite and another that is 0, and the product of their derivatives is NaN.

    It is the loss of a constant, plus (x − constant)·slope, which is 0 and whose derivative is the slope. The slope is
    taken half at x and half at the constant, so that the second derivatives are right too.
    """
    fixed = constant(x)
    value = loss(_Operations, fixed, *rest, **changes)
    if x.stop_gradient:
        return value
    mean = (slope(_Operations, x, *rest, **changes) + slope(_Operations, fixed, *rest, **changes)) / 2
    return value + formula.only(_Operations, paddle.logical_not(paddle.isinf(fixed)), x - fixed) * mean


def _sum(elements: Any) -> Any:
    """In float64, which not every device has: Paddle's float32 sum is 2e-6 off, and its mean 12 % at 10⁸ elements."""
    if _device(elements) in ("cpu", "gpu"):
        elements = paddle.cast(elements, paddle.float64)
    return paddle.sum(elements)


def _measured(divisor: str, elements: Any, keep: Any, weight: Any) -> Any:
    """A divisor that the operands give: of all the elements, to which a mask or a weight is broadcast."""
    each = paddle.cast(keep, elements.dtype) if divisor == options.KEPT else weight
    return _sum(each + _Operations.zeros_like(elements))


def _reduced(reduction: str, elements: Any, keep: Any, weight: Any) -> Any:
    """In a static graph the shape may be known only when it runs."""
    total = _sum(elements)
    divisor = options.divisor(reduction, elements.shape, selects=keep is not None, weighted=weight is not None)
    if isinstance(divisor, str):
        return formula.divided(_Operations, total, _measured(divisor, elements, keep, weight))
    if reduction == "sum":
        return total
    count = paddle.shape(elements)[0] if reduction == "batchmean" else paddle.numel(elements)
    return total / paddle.cast(count, total.dtype)


def _without_amp() -> Any:
    """Mixed precision would compute the parts of the formula in half precision."""
    return paddle.amp.auto_cast(enable=False)


def loss(probabilities: bool, reduction: str, result: Any, operands: Operands, terms: options.Terms | None) -> Any:
    """Of dtype ``result``; of operands in the dynamic or in a static graph."""
    wide = _wide(result)
    if paddle.is_autocast_enabled():  # on accelerators and in static graphs; Paddle computes its own in float32 there
        result = wide
    with _without_amp():
        x, y, w, p, keep = _converted(operands, terms, wide)
        changes = _changes(terms, x)
        if probabilities:
            if isinstance(x, Tensor) and not x.stop_gradient and operands[0].dtype == paddle.float16:
                x.register_hook(_saturated)
            x = x if isinstance(x, Tensor) else _refusing(x)
            elements = _by_slope(formula.probabilities_loss, formula.probabilities_gradient, x, y, w, p, **changes)
        elif terms is not None and terms.gamma:
            elements = _by_slope(formula.logits_loss, formula.logits_gradient, x, y, w, p, **changes)
        else:
            elements = formula.logits_loss(_Operations, x, y, w, p, **changes)
        elements = formula.only(_Operations, keep, elements)
        return paddle.cast(elements if reduction == "none" else _reduced(reduction, elements, keep, w), result)


def gradient(
    probabilities: bool, divisor: float | str, operands: Operands, terms: options.Terms | None, incoming: Tensor
) -> Any:
    """The gradient to the input, itself differentiable."""
    dtype, wide = operands[0].dtype, _wide(incoming.dtype)
    slope = formula.probabilities_gradient if probabilities else formula.logits_gradient
    with _without_amp():
        x, y, w, p, keep = _converted(operands, terms, wide)
        gradient = formula.only(_Operations, keep, slope(_Operations, x, y, w, p, **_changes(terms, x)))
        factor = paddle.cast(incoming, wide)
        if isinstance(divisor, str):
            measured = paddle.cast(_measured(divisor, gradient, keep, w), wide)
            gradient = gradient * formula.divided(_Operations, factor, measured)
        else:
            gradient = gradient * (factor / divisor)
        if probabilities and dtype == paddle.float16:
            gradient = _saturated(gradient)
        return paddle.cast(gradient, dtype)
