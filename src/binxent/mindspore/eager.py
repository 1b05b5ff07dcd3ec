"""Computes the loss in PyNative mode, outside graphs: the kernel under MindSpore's tape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import COOTensor, CSRTensor, Tensor, mint
from mindspore.common import np_dtype
from mindspore.common._grad_function import _Function
from mindspore.ops.primitive import _pynative_executor

from binxent import definition, options, sparse
from binxent.call import ROWS, SIZE, WEIGHTS, Operands
from binxent.kernels import Outputs, native
from binxent.mindspore import arrays
from binxent.mindspore.arrays import ARRAYS, column, refusal_of_targets
from binxent.mindspore.operands import (
    DTYPE,
    FLOATING,
    NAME,
    NAMES,
    TAG,
    Kind,
    checked_kind,
    checked_reduction,
    checked_terms,
    planned,
    planned_count,
)
from binxent.options import RefusalError
from binxent.targets import IndexTargets, SparseRows

if TYPE_CHECKING:
    from binxent.call import Call
    from binxent.formula import Loss
    from binxent.options import Terms

_NUMPY = {ms.float16: np.float16, ms.bfloat16: np_dtype.bfloat16, ms.float32: np.float32}
_POOLED = 1 << 20  # elements: from here on MindSpore's memory pool saves more time than its queue costs

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or the scale of mixed precision. Where another one comes, the kernel runs again, so this only ever decides what is
# computed twice, never a result.
_expected_incoming = 1.0


def _empty(shape: tuple[int, ...], size: int, dtype: Any) -> Tensor:
    return mint.empty(shape, dtype=dtype) if size >= _POOLED else Tensor.from_numpy(np.empty(shape, _NUMPY[dtype]))


def _described(tensor: Tensor | SparseRows) -> native.Operand:
    if isinstance(tensor, SparseRows):
        return sparse.described(tensor)
    if tensor.is_contiguous():
        return tensor.data_ptr(), TAG[tensor.dtype], tensor.shape, None
    size = tensor.itemsize
    return tensor.data_ptr(), TAG[tensor.dtype], tensor.shape, tuple(step * size for step in tensor.stride())


def _described_column(sample_weight: Tensor, dims: int) -> native.Operand:
    """Describes it in the shape [N, 1, …, 1], in which it broadcasts; the kernel needs no tensor of that shape."""
    address, tag, shape, strides = _described(sample_weight)
    rest = dims - 1
    return address, tag, shape + (1,) * rest, strides and strides + (0,) * rest


def _refuse_out_of_range(call: Call, operands: Operands) -> None:
    """Raises for the first operand that ``check_targets`` refuses, and the first probability outside [0, 1], but not
    for one that is NaN, which MindSpore lets pass."""
    target, ignore_index = ARRAYS.widen(operands.target, call.dtype), call.terms and call.terms.ignore_index
    keep = definition.kept(ARRAYS, target, operands.mask, ignore_index)
    if call.checks_targets and (refusal := refusal_of_targets(operands, keep)):
        raise ValueError(refusal)
    if not call.loss.probabilities:
        return
    values = operands.input.astype(ms.float32).asnumpy()
    wrong = (values < 0) | (values > 1)
    if keep is not None:
        wrong &= keep.asnumpy()
    if wrong.any():
        raise ValueError(definition.refusal_of_probability("input", values, wrong))


class _Loss:
    """One loss on the tape, and what its backward needs."""

    def __init__(self, call: Call, operands: Operands) -> None:
        self.call, self.operands = call, operands
        self.by_definition = arrays.device() != "CPU"
        self.incoming: Tensor | None = None
        self.made: tuple[Tensor, float] | None = None  # a gradient, and the incoming gradient for which it was made

    def _run(self, loss: Tensor | None, gradient: Tensor | None, incoming: Tensor | float = 1.0) -> None:
        """Writes the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
        call, operands = self.call, self.operands
        described = Operands(*[None if operand is None else _described(operand) for operand in operands[:6]])
        if operands.neg_weight is not None:
            described = described._replace(neg_weight=_described(operands.neg_weight))
        if operands.sample_weight is not None:
            described = described._replace(sample_weight=_described_column(operands.sample_weight, operands.input.ndim))
        output = None if loss is None else _described(loss)
        elements, total = (output, None) if call.reduction == "none" else (None, output)
        outputs = Outputs(elements, total, None if gradient is None else _described(gradient))
        scale = incoming if isinstance(incoming, float) else _described(incoming)
        divisor = None if operands.normalizer is None else float(operands.normalizer.item())
        outside = native.compute(call, described, outputs, divisor, scale)
        if outside and loss is not None:
            _refuse_out_of_range(call, self._broadcasting())

    def _new_gradient(self) -> Tensor:
        input = self.operands.input
        return _empty(input.shape, input.size, input.dtype)

    def _computed(self, want_gradient: bool) -> Tensor:
        """The kernel's loss, and with it the gradient that the backward is expected to need."""
        input, dtype = self.operands.input, DTYPE[self.call.dtype]
        if self.call.reduction == "none":
            loss = _empty(input.shape, input.size, dtype)
            self._run(loss, None)
            return loss
        loss = _empty((), 1, dtype)
        if want_gradient:
            gradient = self._new_gradient()
            self._run(loss, gradient, _expected_incoming)
            self.made = gradient, _expected_incoming
        else:
            self._run(loss, None)
        return loss

    def forward(self, want_gradient: bool) -> Tensor:
        if self.by_definition:
            return definition.loss(ARRAYS, self.call, self._broadcasting())
        return self._computed(want_gradient)

    def backward(self, incoming: Tensor) -> Tensor:
        global _expected_incoming
        self.incoming = incoming
        if self.by_definition or _pynative_executor.requires_grad():
            # The tape records this backward, for a higher derivative, which it has for MindSpore's own operations.
            return self.gradient("input", self.operands.input)
        # Handed over once: a second backward must not write into the gradient that the first one returned.
        made, self.made = self.made, None
        scale = incoming if self.call.reduction == "none" else float(incoming)
        if made is not None and made[1] == scale:
            return made[0]
        gradient = self._new_gradient() if made is None else made[0]
        self._run(None, gradient, scale)
        if isinstance(scale, float):
            _expected_incoming = scale
        return gradient

    def _broadcasting(self) -> Operands:
        """The operands as the definition takes them."""
        operands = self.operands
        if isinstance(operands.target, SparseRows):
            operands = operands._replace(target=Tensor(sparse.dense(operands.target)))
        if operands.sample_weight is not None:
            operands = operands._replace(sample_weight=column(operands.sample_weight, operands.input))
        if operands.normalizer is not None:
            operands = operands._replace(normalizer=ms.ops.stop_gradient(operands.normalizer.reshape(())))
        return operands

    def gradient(self, name: str, operand: Tensor) -> Tensor:
        """The gradient to the operand of that name, by the definition."""
        if operand.dtype not in FLOATING:
            return ms.ops.zeros_like(operand)
        operands = self._broadcasting()
        call = self.call._replace(checks_targets=False)  # that was checked with the loss
        values = definition.prepare(ARRAYS, call, operands)
        gradient = definition.gradient(ARRAYS, call, operands, values, name, NAME[operand.dtype], self.incoming)
        return gradient.reshape(operand.shape) if name == "sample_weight" else gradient


class _Node(_Function):
    """The loss as the tape sees it: a function of the input, and of one joint for each other operand."""

    @staticmethod
    def forward(ctx: Any, loss: _Loss, input: Tensor, *joints: Tensor) -> Tensor:
        ctx.loss, ctx.joints = loss, len(joints)
        ctx.save_for_backward(*(operand for operand in loss.operands if isinstance(operand, Tensor)))
        return loss.forward(ctx.needs_input_grad[1])

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # noqa: B018 - MindSpore raises here if one was modified in place since the forward
        return None, ctx.loss.backward(incoming), *(_scalar() for _ in range(ctx.joints))


class _Joint(_Function):
    """A number that stands for an operand on the tape.

    MindSpore asks a function for the gradients to all its operands, whether anybody wants them or not. But it does not
    ask a function that leads to no wanted gradient. So each operand but the input has a function of its own.
    """

    @staticmethod
    def forward(ctx: Any, loss: _Loss, name: str, operand: Tensor) -> Tensor:
        ctx.loss, ctx.name = loss, name
        return _scalar()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.loss.gradient(ctx.name, getattr(ctx.loss.operands, ctx.name))


def _scalar() -> Tensor:
    return Tensor.from_numpy(np.zeros((), np.float32))


def _kind(operand: Any) -> Kind:
    if isinstance(operand, Tensor):
        return operand.shape, operand.dtype
    if isinstance(operand, SparseRows):
        return operand.shape, DTYPE.get("bool" if operand.values is None else operand.values.dtype.name)
    if operand is None:
        return None
    hint = options.TO_DENSE if isinstance(operand, (COOTensor, CSRTensor)) else options.to_dense(operand)
    return type(operand).__name__ + hint


def is_sparse(target: object) -> bool:
    return isinstance(target, IndexTargets) or sparse.is_scipy(target)


def rows(target: Any, shape: tuple[int, ...] | None, ignore_index: float | None) -> SparseRows:
    """The rows of a sparse target, in NumPy's arrays. Each index is checked. Without logits there is no shape."""
    try:
        if shape is None:
            shape = sparse.shape_to_count(target, ignore_index)
        return sparse.rows(target, shape, ignore_index)
    except RefusalError as refusal:
        raise ValueError(str(refusal)) from None


def count(target: Any, reduction: str, ignore_index: float | None, *others: Tensor | None) -> Tensor:
    """What the mean of a sparse target divides by; the others are weight, sample_weight and mask."""
    listed = rows(target, None, ignore_index)
    terms = checked_terms(ignore_index, 0.0, 0.0)
    call = planned_count(checked_reduction(reduction), terms, *map(_kind, (listed, *others)))
    if call.divisor in (ROWS, SIZE):
        return Tensor(listed.shape[0] if call.divisor == ROWS else math.prod(listed.shape), ms.int64)
    weight, sample_weight, mask = others
    described = {name: _described(o) for name, o in (("weight", weight), ("mask", mask)) if o is not None}
    if sample_weight is not None:
        described["sample_weight"] = _described_column(sample_weight, 2)
    counted = native.measure(call, Operands(sparse.logits_to_count(listed.shape), _described(listed), **described))
    return Tensor(counted, ms.float64 if call.divisor == WEIGHTS else ms.int64)


def loss(loss: Loss, reduction: str, terms: Terms | None, check_targets: bool, given: tuple[Any, ...]) -> Tensor:
    """The loss of input, target, weight, sample_weight, pos_weight, mask, normalizer and neg_weight."""
    if is_sparse(given[1]):
        shape, _ = checked_kind("input", _kind(given[0]))
        given = (given[0], rows(given[1], shape, terms and terms.ignore_index), *given[2:])
    call = planned(loss, reduction, terms, check_targets, tuple(map(_kind, given)))
    node = _Loss(call, Operands(**dict(zip(NAMES, given, strict=True))))
    if not _pynative_executor.requires_grad():
        return node.forward(want_gradient=False)
    others = zip((*NAMES[1:5], NAMES[-1]), (*given[1:5], given[-1]), strict=True)
    joints = [_Joint.apply(node, name, operand) for name, operand in others if isinstance(operand, Tensor)]
    return _Node.apply(node, given[0], *joints)
