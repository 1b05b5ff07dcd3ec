"""The loss outside graphs, in PyNative mode: the kernel under MindSpore's tape."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint
from mindspore.common import np_dtype
from mindspore.common._grad_function import _Function
from mindspore.ops.primitive import _pynative_executor

from binxent import formula, kernel, options
from binxent.mindspore import composite
from binxent.mindspore.call import TAG, Call, Kind, Operands, check

_NUMPY = {ms.float16: np.float16, ms.bfloat16: np_dtype.bfloat16, ms.float32: np.float32}
_NO_TERMS = Call(False, "")[2:]
_POOLED = 1 << 20  # elements, from which MindSpore's pool of used memory saves more than its queue takes

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or the scale of mixed precision. Where another one comes, the kernel runs again, so this only ever decides what is
# computed twice, never a result.
_expected_incoming = 1.0


def _empty(shape: tuple[int, ...], size: int, dtype: Any) -> Tensor:
    return mint.empty(shape, dtype=dtype) if size >= _POOLED else Tensor.from_numpy(np.empty(shape, _NUMPY[dtype]))


def _operand(tensor: Tensor) -> kernel.Operand:
    if tensor.is_contiguous():
        return tensor.data_ptr(), TAG[tensor.dtype], tensor.shape, None
    size = tensor.itemsize
    return tensor.data_ptr(), TAG[tensor.dtype], tensor.shape, tuple(step * size for step in tensor.stride())


def _refuse_out_of_range(input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: float | None) -> None:
    """But not for a NaN, which MindSpore lets pass."""
    values = input.astype(ms.float32).asnumpy()
    hides = None if mask is None else mask.astype(ms.float32).asnumpy()
    keep = formula.kept(target.astype(ms.float32).asnumpy(), hides, ignore_index)
    out_of_range = (values < 0) | (values > 1)
    wrong = np.argwhere(out_of_range if keep is None else out_of_range & keep)
    if len(wrong):
        first = tuple(int(i) for i in wrong[0])
        raise ValueError(options.no_probability("input", first, float(values[first])))


class _Loss:
    """One loss on the tape, and what its backward needs."""

    def __init__(self, call: Call, operands: Operands, dtype: Any) -> None:
        self.call, self.operands, self.dtype = call, operands, dtype
        input, _, weight, sample_weight, _, mask = operands
        self.terms = None if call[2:] == _NO_TERMS else options.Terms(*call[2:])
        self.divisor = options.divisor(
            call.reduction,
            input.shape,
            selects=options.selects(mask, self.terms),
            weighted=weight is not None or sample_weight is not None,
        )
        self.by_formula = composite.device() != "CPU"
        self.incoming: Tensor | None = None
        self.made: tuple[Tensor, float] | None = None  # a gradient, and the incoming one that it was made for

    def _run(self, loss: Tensor | None, gradient: Tensor | None, incoming: Tensor | float = 1.0) -> None:
        """Write the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
        input, target, weight, sample_weight, pos_weight, mask = self.operands
        weights: tuple[kernel.Operand, ...] = () if weight is None else (_operand(weight),)
        if sample_weight is not None:
            address, tag, shape, strides = _operand(sample_weight)
            along = (0,) * (input.ndim - 1)
            weights += ((address, tag, shape + (1,) * (input.ndim - 1), strides and strides + along),)
        if not isinstance(incoming, float):  # one for each element: a weight like any other
            weights += (_operand(incoming),)
            incoming = 1.0
        output = None if loss is None else _operand(loss)
        by_element = self.call.reduction == "none"
        outside = kernel.compute(
            self.call.probabilities,
            _operand(input),
            _operand(target),
            weights,
            None if pos_weight is None else _operand(pos_weight),
            None if mask is None else _operand(mask),
            self.terms,
            output if by_element else None,
            None if by_element else output,
            None if gradient is None else _operand(gradient),
            self.divisor,
            incoming,
            0,
        )
        if outside and loss is not None:
            if outside & kernel.INPUT_OUT_OF_RANGE:
                _refuse_out_of_range(input, target, mask, self.call.ignore_index)
            # MindSpore takes targets outside [0, 1] for probabilities too, and this door of the kernel does not.
            self.by_formula = bool(outside & kernel.TARGET_OUT_OF_RANGE)

    def _new_gradient(self) -> Tensor:
        input = self.operands[0]
        return _empty(input.shape, input.size, input.dtype)

    def _computed(self, want_gradient: bool) -> Tensor:
        """By the kernel, which may find that the formula is needed."""
        if self.call.reduction == "none":
            loss = _empty(self.operands[0].shape, self.operands[0].size, self.dtype)
            self._run(loss, None)
            return loss
        loss = _empty((), 1, self.dtype)
        if want_gradient:
            gradient = self._new_gradient()
            self._run(loss, gradient, _expected_incoming)
            self.made = gradient, _expected_incoming
        else:
            self._run(loss, None)
        return loss

    def forward(self, want_gradient: bool) -> Tensor:
        if not self.by_formula:
            loss = self._computed(want_gradient)
        return composite.loss(self.call, self.dtype, *self.operands) if self.by_formula else loss

    def backward(self, incoming: Tensor) -> Tensor:
        global _expected_incoming
        self.incoming = incoming
        if self.by_formula or _pynative_executor.requires_grad():
            # The tape records, for a higher derivative: of MindSpore's own operations it knows any.
            return composite.to_input(self.call, *self.operands, incoming)
        # Handed over, not kept: a second backward must not write into what the first one gave.
        made, self.made = self.made, None
        scale = incoming if self.call.reduction == "none" else float(incoming)
        if made is not None and made[1] == scale:
            return made[0]
        gradient = self._new_gradient() if made is None else made[0]
        self._run(None, gradient, scale)
        if isinstance(scale, float):
            _expected_incoming = scale
        return gradient


class _Node(_Function):
    """The loss as the tape sees it: a function of the input, and of one joint for each other operand."""

    @staticmethod
    def forward(ctx: Any, loss: _Loss, input: Tensor, *joints: Tensor) -> Tensor:
        ctx.loss, ctx.joints = loss, len(joints)
        ctx.save_for_backward(*(operand for operand in loss.operands if operand is not None))
        return loss.forward(ctx.needs_input_grad[1])

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # noqa: B018 - MindSpore raises here if one was modified in place since the forward
        return None, ctx.loss.backward(incoming), *(_scalar() for _ in range(ctx.joints))


class _Joint(_Function):
    """A number that stands for an operand on the tape.

    MindSpore says that a gradient to each operand is needed, whether anybody asked for it or not. But it leaves out
    what leads to no gradient that was asked for. So each operand but the input has a function of its own.
    """

    @staticmethod
    def forward(ctx: Any, loss: _Loss, to_operand: Any, operand: Tensor) -> Tensor:
        ctx.loss, ctx.to_operand = loss, to_operand
        return _scalar()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.to_operand(ctx.loss.call, *ctx.loss.operands, ctx.loss.incoming)


def _scalar() -> Tensor:
    return Tensor.from_numpy(np.zeros((), np.float32))


_TO_OTHERS = (composite.to_target, composite.to_weight, composite.to_sample_weight, composite.to_pos_weight)


def _kind(operand: Any) -> Kind:
    if isinstance(operand, Tensor):
        return operand.shape, operand.dtype
    return None if operand is None else type(operand).__name__


def loss(call: Call, operands: Operands) -> Tensor:
    dtype = check(call, [_kind(operand) for operand in operands])
    loss = _Loss(call, operands, dtype)
    if not _pynative_executor.requires_grad():
        return loss.forward(want_gradient=False)
    joints = [_Joint.apply(loss, to, o) for to, o in zip(_TO_OTHERS, operands[1:5], strict=True) if o is not None]
    return _Node.apply(loss, operands[0], *joints)
