"""Paddle's operations, as the definition needs them, and the loss that is made of them.

It serves where the kernel cannot: static graphs, gradients of gradients, gradients to the label, the weights, gamma or
label_smoothing, weights that enlarge the result, and other devices.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import paddle
import paddle.nn.functional as F  # noqa: N812
from paddle import Tensor

from binxent import definition, formula
from binxent.call import ROWS, SIZE
from binxent.kernels import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from binxent.call import Call, Operands

DTYPE = {name: getattr(paddle, name) for name in native.TAGS}
NAME = {dtype: name for name, dtype in DTYPE.items()}


def constant(x: Any) -> Any:
    """x, which is not differentiated. In a static graph a copy: Paddle computes in place, and forgets who shares
    memory."""
    if isinstance(x, Tensor):
        return x.detach()
    copy = paddle.assign(x)
    copy.stop_gradient = True
    return copy


def _device(x: Any) -> str:
    """Where x is; of a value in a static graph, where that will run."""
    if isinstance(x, Tensor):
        return "cpu" if x.place.is_cpu_place() else "gpu" if x.place.is_gpu_place() else "another"
    return str(paddle.device.get_device()).partition(":")[0]


def _zeros_like(x: Any) -> Any:
    """Paddle's own warns in a static graph."""
    return paddle.cast(x < x, x.dtype)


def _log1p(x: Any) -> Any:
    """Paddle's log1p has no second derivative; log(1 + x) has one, but loses digits: each gives what it has."""
    if x.stop_gradient:
        return paddle.log1p(x)
    log = paddle.log(1 + x)
    return paddle.log1p(constant(x)) + (log - constant(log))


class Arrays:
    """Paddle's operations, for tensors and for the values of a static graph."""

    exp = staticmethod(paddle.exp)
    log = staticmethod(paddle.log)
    log1p = staticmethod(_log1p)
    where = staticmethod(paddle.where)
    isinf = staticmethod(paddle.isinf)
    zeros_like = staticmethod(_zeros_like)
    clip = staticmethod(paddle.clip)

    def cast(self, array: Any, dtype: str) -> Any:
        """Paddle's cast takes a boolean for its byte, which in a mask of 0 and 255 is no 1; and its != takes what is
        tiny for 0, so that it cannot make a boolean of a number."""
        return paddle.cast(array != 0 if array.dtype == paddle.bool else array, DTYPE[dtype])

    def widen(self, array: Any, dtype: str) -> Any:
        return self.cast(array, "float64" if dtype == "float64" else "float32")

    def sum(self, array: Any) -> Any:
        """In float64, which not every device has: Paddle's float32 sum is 2e-6 off, and its mean 12 % at 10⁸
        elements."""
        wide = paddle.cast(array, paddle.float64) if _device(array) in ("cpu", "gpu") else array
        return paddle.cast(paddle.sum(wide), array.dtype)

    def count(self, keep: Any, like: Any) -> Any:
        return self.sum(paddle.cast(keep, like.dtype) + _zeros_like(like))

    def size(self, array: Any) -> Any:
        return paddle.cast(paddle.numel(array), array.dtype)

    def rows(self, array: Any) -> Any:
        return paddle.cast(paddle.shape(array)[0], array.dtype)

    def like(self, array: Any, operand: Any) -> Any:
        """The array as it is: only the gradient to the input is asked for, which has the array's shape."""
        return array

    def number(self, number: float, x: Any) -> Any:
        """A tensor where that is float64 in a static graph, in which Paddle rounds a number to float32."""
        if number and not isinstance(x, Tensor) and x.dtype == paddle.float64:
            return paddle.full([], number, x.dtype)
        return number

    def probability(self, call: Call, x: Any, y: Any) -> Any:
        """On the processor what is out of range is refused; elsewhere that would wait for the device, or end its
        context.

        A static graph raises Paddle's own ValueError, when it runs: Paddle's loss is asked for the sake of its check,
        and adds 0. An assertion would be lost in a saved model.
        """
        if _device(x) != "cpu":
            return definition.nan_outside(self, call, x, y)
        if not isinstance(x, Tensor):
            fixed = constant(x)
            return x + 0 * F.binary_cross_entropy(fixed, fixed, reduction="none")
        if not bool(formula.in_unit(x).all()):
            raise ValueError(definition.refusal_of_probability("input", x.numpy(), None))
        return x


ARRAYS = Arrays()


def _by_slope(loss: Callable[..., Any], slope: Callable[..., Any], xp: Arrays, x: Any, *rest: Any) -> Any:
    """The loss with a gradient that is not that of its parts.

    It is the loss of a constant, plus (x − constant)·slope, which is 0 and whose derivative is the slope. The slope is
    taken half at x and half at the constant, so that the second derivatives are right too.
    """
    fixed = constant(x)
    value = loss(xp, fixed, *rest)
    if x.stop_gradient:
        return value
    mean = (slope(xp, x, *rest) + slope(xp, fixed, *rest)) / 2
    return value + formula.only(xp, paddle.logical_not(paddle.isinf(fixed)), x - fixed) * mean


def _logits_loss(xp: Arrays, x: Any, y: Any, weight: Any, pos_weight: Any, label_smoothing: Any, gamma: Any) -> Any:
    """With gamma an infinite logit has one part that is infinite and another that is 0, and the product of their
    derivatives is NaN."""
    operands = (xp, x, y, weight, pos_weight, label_smoothing, gamma)
    if formula.is_off(gamma):
        return formula.logits_loss(*operands)
    return _by_slope(formula.logits_loss, formula.logits_gradient, *operands)


def _probabilities_loss(xp: Arrays, *operands: Any) -> Any:
    """The gradient is the frameworks', where the logarithms are clamped."""
    return _by_slope(formula.probabilities_loss, formula.probabilities_gradient, xp, *operands)


LOGITS = dataclasses.replace(formula.LOGITS, loss=_logits_loss)
PROBABILITIES = dataclasses.replace(formula.PROBABILITIES, loss=_probabilities_loss)


def may_enlarge(weight: Sequence[int], input: Sequence[int]) -> bool:
    """Whether the weight may be the larger one. A size of −1 may turn out to be any."""
    return len(weight) > len(input) or any(
        w != 1 and (w != n or w == -1) for w, n in zip(reversed(weight), reversed(input), strict=False)
    )


def _counted(call: Call) -> Call:
    """The call whose divisor is counted when it is computed."""
    if isinstance(call.divisor, str):
        return call
    return call._replace(divisor=ROWS if call.reduction == "batchmean" else SIZE)


def _without_amp() -> Any:
    """Mixed precision would compute the parts of the formula in half precision."""
    return paddle.amp.auto_cast(enable=False)


def _saturated(gradient: Any) -> Any:
    return paddle.clip(gradient, -definition.LARGEST_FLOAT16, definition.LARGEST_FLOAT16)


def loss(call: Call, operands: Operands) -> Any:
    """The loss by the definition, of operands in the dynamic or in a static graph."""
    if call.dtype != "float64" and paddle.is_autocast_enabled():  # on accelerators and in static graphs
        call = call._replace(dtype="float32")  # as Paddle computes its own there
    with _without_amp():
        x, weight = ARRAYS.widen(operands.input, call.dtype), operands.weight
        dynamic = isinstance(x, Tensor)
        if call.loss.probabilities and operands.input.dtype == paddle.float16 and dynamic and not x.stop_gradient:
            x.register_hook(_saturated)
        if not dynamic:  # it would round the divisor to float32
            call = _counted(call)
        if weight is not None and may_enlarge(weight.shape, x.shape):
            x, call = x + _zeros_like(ARRAYS.widen(weight, call.dtype)), _counted(call)
        return definition.loss(ARRAYS, call, operands._replace(input=x))


def input_gradient(call: Call, operands: Operands, incoming: Tensor) -> Any:
    """The gradient to the input, itself differentiable."""
    with _without_amp():
        values = definition.prepare(ARRAYS, call, operands)
        return definition.gradient(ARRAYS, call, operands, values, "input", NAME[operands.input.dtype], incoming)
