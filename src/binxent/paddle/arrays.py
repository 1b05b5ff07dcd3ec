"""Adapts Paddle to ``binxent.definition``, and computes the loss by it where the kernel cannot.

That is in static graphs, for gradients of gradients, for gradients to the label, the weights, gamma or label_smoothing,
with weights that enlarge the result, and on other devices.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import paddle.nn.functional as F  # noqa: N812
from paddle import Tensor

from binxent import definition, focal, formula
from binxent.call import ROWS, SIZE, WEIGHTS, Operands, averaged_axes
from binxent.kernels import native
from binxent.paddle.sparse import with_dense_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from binxent.call import Call

DTYPE = {name: getattr(paddle, name) for name in native.TAGS}
NAME = {dtype: name for name, dtype in DTYPE.items()}


def constant(x: Any) -> Any:
    """x without a gradient. In a static graph it is a copy, because Paddle computes in place there and does not notice
    shared memory."""
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
    """Zeros like x. Paddle's own function warns in a static graph."""
    return paddle.cast(x < x, x.dtype)


def _log1p(x: Any) -> Any:
    """The value of Paddle's log1p, which has no second derivative, with the derivatives of log(1 + x)."""
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
        """The array in that dtype. A boolean is compared with 0 first, because Paddle casts its byte, which may be 255.
        A number is not, because Paddle's ``!=`` takes a tiny one for 0."""
        return paddle.cast(array != 0 if array.dtype == paddle.bool else array, DTYPE[dtype])

    def widen(self, array: Any, dtype: str) -> Any:
        return self.cast(array, "float64" if dtype == "float64" else "float32")

    def sum(self, array: Any) -> Any:
        """The sum, in float64 where the device has it: Paddle's float32 sum is 2e-6 off, and its mean 12 % at 10⁸
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
        """The number; in a static graph of float64 a tensor, because Paddle rounds a number to float32 there.

        A static graph makes NaN when it runs: Paddle cannot load a program in which it is a constant.
        """
        if isinstance(x, Tensor) or not number:
            return number
        if number != number:
            return paddle.log(paddle.full([], -1, x.dtype))
        return paddle.full([], number, x.dtype) if x.dtype == paddle.float64 else number

    def probability(self, call: Call, x: Any, y: Any) -> Any:
        """x. On CPU an element out of range is refused. Elsewhere it becomes NaN: to refuse it would wait for the
        device, or end its context.

        A static graph raises Paddle's own ValueError when it runs: it computes Paddle's loss for the sake of the check
        in it, and adds 0 times that. An assertion would be lost in a saved model.
        """
        if _device(x) != "cpu":
            return definition.nan_outside(self, call, x, y)
        if not isinstance(x, Tensor):
            fixed = constant(x)
            return x + 0 * F.binary_cross_entropy(fixed, fixed, reduction="none")
        if not bool(formula.in_unit(x).all()):
            raise ValueError(definition.refusal_of_probability("input", x.numpy(), None))
        return x

    def checked(self, call: Call, x: Any, y: Any, operands: Operands, keep: Any) -> Any:
        """x. An element that is wrong is refused in the dynamic graph, which waits for another device once. A static
        graph raises on CPU as ``probability`` says; on another device such an element is NaN."""
        if isinstance(x, Tensor):
            wrong = None
            if _device(x) == "cpu" or bool(paddle.isnan(self._marked(call, x, y, operands, keep)).any()):
                wrong = definition.wrong_element(_in_numpy(operands, x), None if keep is None else keep.numpy())
            if wrong:
                raise ValueError(wrong)
            return x
        marked = self._marked(call, x, y, operands, keep)
        if _device(x) != "cpu":
            return x + marked
        shown = paddle.where(formula.in_unit(y), marked, y)  # Paddle's message has this number
        return x + 0 * F.binary_cross_entropy(shown, shown, reduction="none")

    def _marked(self, call: Call, x: Any, y: Any, operands: Operands, keep: Any) -> Any:
        """NaN where ``check_targets`` refuses an operand, else 0; without a gradient."""
        marked = definition.nan_where_wrong(self, call, _zeros_like(x), y, operands._replace(mask=None), keep)
        mask = operands.mask
        if mask is not None and mask.dtype != paddle.bool:
            # Paddle's != takes 1e-16 for 0; its comparisons of order are exact.
            number = self.widen(mask, NAME[mask.dtype])
            is_binary = ((number >= 0) & (number <= 0)) | ((number >= 1) & (number <= 1))
            none = _zeros_like(number)
            wrong = paddle.where(is_binary, none, none + self.number(math.nan, none))
            marked = marked + paddle.cast(wrong, marked.dtype)
        return constant(marked)


def _in_numpy(operands: Operands, x: Any) -> Operands:
    """The operands that ``check_targets`` looks at. NumPy knows no bfloat16, and takes the byte of a boolean."""

    def plain(operand: Any) -> Any:
        if operand is None:
            return None
        if operand.dtype == paddle.bool:
            operand = operand != 0
        elif operand.dtype == paddle.bfloat16:
            operand = paddle.cast(operand, paddle.float32)
        return operand.numpy()

    return Operands(
        np.broadcast_to(np.float32(0), x.shape),
        plain(operands.target),
        pos_weight=plain(operands.pos_weight),
        mask=plain(operands.mask),
        neg_weight=plain(operands.neg_weight),
    )


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


def _logits_loss(
    xp: Arrays, x: Any, y: Any, weight: Any, pos_weight: Any, label_smoothing: Any, gamma: Any, neg_weight: Any
) -> Any:
    """The loss from logits. With gamma the derivative is given by its formula: the derivative of the parts would be
    0 · inf = NaN for an infinite logit."""
    operands = (xp, x, y, weight, pos_weight, label_smoothing, gamma, neg_weight)
    if formula.is_off(gamma):
        return formula.logits_loss(*operands)
    return _by_slope(formula.logits_loss, formula.logits_gradient, *operands)


def _probabilities_loss(xp: Arrays, *operands: Any) -> Any:
    """The loss from probabilities. Its gradient is the frameworks' where the logarithms are clamped."""
    return _by_slope(formula.probabilities_loss, formula.probabilities_gradient, xp, *operands)


LOGITS = dataclasses.replace(formula.LOGITS, loss=_logits_loss)
PROBABILITIES = dataclasses.replace(formula.PROBABILITIES, loss=_probabilities_loss)


def _with_slope(call: Call) -> Call:
    """The call, with a loss of the focal family whose gradient is that of its formula, as the two losses above."""
    terms = call.terms
    if terms is None or not terms.is_family:
        return call
    probabilities, given = call.loss.probabilities, terms

    def loss(xp: Arrays, x: Any, *rest: Any) -> Any:
        def number(option: float | None) -> Any:
            return None if option is None else xp.number(option, x)

        known = given._replace(
            alpha=number(given.alpha), gamma_negative=number(given.gamma_negative), margin=number(given.margin)
        )
        of = focal.of_terms(probabilities, known)  # not the cached one: a graph's numbers are its own
        return _by_slope(of.loss, of.derivatives["input"], xp, x, *rest)

    known_call = definition.with_own_loss(call)
    return known_call._replace(loss=dataclasses.replace(known_call.loss, loss=loss))


def may_enlarge(weight: Sequence[int], input: Sequence[int]) -> bool:
    """Whether the weight may be larger than the input. A size of −1 is unknown and may be any."""
    return len(weight) > len(input) or any(
        w != 1 and (w != n or w == -1) for w, n in zip(reversed(weight), reversed(input), strict=False)
    )


def enlarges(weight: Sequence[int], input: Sequence[int]) -> bool:
    """Whether the input broadcasts to the weight, which Paddle allows, and not the weight to the input."""
    if not may_enlarge(weight, input):
        return False
    try:
        paddle.broadcast_shape(weight, input)
    except ValueError:
        return False
    return True


def _counted(call: Call) -> Call:
    """The call with a divisor that is counted when the loss is computed."""
    if isinstance(call.divisor, str):
        return call
    return call._replace(divisor=ROWS if call.reduction == "batchmean" else SIZE)


def _without_amp() -> Any:
    """A context without mixed precision, which would compute the parts of the formula in half precision."""
    return paddle.amp.auto_cast(enable=False)


def _saturated(gradient: Any) -> Any:
    return paddle.clip(gradient, -definition.LARGEST_FLOAT16, definition.LARGEST_FLOAT16)


def loss(call: Call, operands: Operands) -> Any:
    """The loss by the definition, of operands in the dynamic or in a static graph."""
    operands = with_dense_target(operands)
    if call.dtype != "float64" and paddle.is_autocast_enabled():  # on accelerators and in static graphs
        call = call._replace(dtype="float32")  # as Paddle computes its own there
    with _without_amp():
        x, weight = ARRAYS.widen(operands.input, call.dtype), operands.weight
        dynamic = isinstance(x, Tensor)
        if call.loss.probabilities and operands.input.dtype == paddle.float16 and dynamic and not x.stop_gradient:
            x.register_hook(_saturated)
        if not dynamic:  # a static graph would round the divisor to float32
            call = _counted(call)
        if weight is not None and may_enlarge(weight.shape, x.shape):
            x, call = x + _zeros_like(ARRAYS.widen(weight, call.dtype)), _counted(call)
        return definition.loss(ARRAYS, _with_slope(call), operands._replace(input=x))


def by_axis(reduction: str, losses: Any, label: Any, mask: Any, ignore_index: float | None) -> Any:
    """The means of the losses over all axes but one, of what is kept there; 0 where nothing is."""
    axes = list(averaged_axes(reduction, len(losses.shape)))
    dtype, wide = NAME[losses.dtype], "float64" if _device(losses) in ("cpu", "gpu") else "float32"

    def total(array: Any) -> Any:
        return paddle.sum(array, axes) if axes else array  # Paddle takes no axes for all of them

    with _without_amp():
        each = ARRAYS.cast(losses, wide)
        totals = total(each)
        keep = definition.kept(ARRAYS, ARRAYS.widen(label, dtype), mask, ignore_index)
        if keep is None:
            counts = ARRAYS.size(each) / ARRAYS.size(totals)
        else:
            counts = total(constant(ARRAYS.cast(keep, wide) + _zeros_like(each)))
        return ARRAYS.cast(formula.divided(ARRAYS, totals, counts), dtype)


def count(call: Call, operands: Operands) -> Any:
    """What the call's mean divides by: int64, or float64 for a sum of weights."""
    with _without_amp():
        x, weight, call = _zeros_like(ARRAYS.widen(operands.target, "float64")), operands.weight, _counted(call)
        if weight is not None and may_enlarge(weight.shape, x.shape):
            x = x + _zeros_like(ARRAYS.widen(weight, "float64"))
        values = definition.prepare(ARRAYS, call, operands._replace(input=x))
        measured = constant(definition.measured(ARRAYS, call, values))
        return paddle.cast(measured, paddle.float64 if call.divisor == WEIGHTS else paddle.int64)


def input_gradient(call: Call, operands: Operands, incoming: Tensor) -> Any:
    """The gradient to the input, itself differentiable."""
    operands = with_dense_target(operands)
    with _without_amp():
        values = definition.prepare(ARRAYS, call, operands)
        return definition.gradient(ARRAYS, call, operands, values, "input", NAME[operands.input.dtype], incoming)
