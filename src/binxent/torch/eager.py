"""The kernel under autograd's tape."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import definition
from binxent.call import FLOATING, Operands
from binxent.kernels import native
from binxent.torch import arrays
from binxent.torch.arrays import ARRAYS, DTYPE
from binxent.torch.context import in_transform
from binxent.torch.operands import TAG

if TYPE_CHECKING:
    from binxent.call import Call

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or the scale of mixed precision or of gradient accumulation. Where another one comes, the kernel runs again, so
# this only ever decides what is computed twice, never a result.
_expected_incoming = 1.0

# torch's own threads: torch.set_num_threads holds, and no second pool competes with them.
_LIBRARY = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
_EXECUTOR = ctypes.cast(_LIBRARY.torch_parallel_for, ctypes.c_void_p).value or 0

_SCALAR = {name: torch.empty((), dtype=DTYPE[name], device="cpu") for name in FLOATING}

# Bound once: looking up an attribute of an attribute takes longer than most of these take to answer.
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_is_grad_enabled, _is_compiling = torch.is_grad_enabled, torch.compiler.is_compiling
_is_copied_when_written = torch._C._is_cow_tensor  # type: ignore[attr-defined]
_new_tensor, _compute = native.new_tensor, native.compute

# Each None that autograd takes and keeps costs it time, and most losses have no operands but input and target: these
# stand for the others.
_NO_OTHERS = (None,) * 7


def _operands(given: tuple[Any, ...]) -> Operands:
    """The operands that autograd was given, in half the time that the named tuple's own constructor takes."""
    return tuple.__new__(Operands, (given + _NO_OTHERS)[:9])


def _source(tensor: Tensor | None) -> native.Operand | None:
    """The tensor, but for one that is to be copied when it is written: the kernel's own reading would copy it."""
    if tensor is None or not _is_copied_when_written(tensor):
        return tensor
    size = tensor.element_size()
    address = torch._C._data_address(tensor) + tensor.storage_offset() * size  # type: ignore[attr-defined]
    return address, TAG[tensor.dtype], tensor.shape, tuple(step * size for step in tensor.stride())


def run(
    call: Call, operands: Operands, loss: Tensor | None, gradient: Tensor | None, incoming: Tensor | float = 1.0
) -> None:
    """Write the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
    read = operands
    for operand in operands[:6]:
        if operand is not None and _is_copied_when_written(operand):
            read = Operands(*map(_source, operands))
            break
    scale = incoming if isinstance(incoming, float) else _source(incoming)
    outputs = (loss, None, gradient) if call.reduction == "none" else (None, loss, gradient)  # of ``Outputs``
    outside = _compute(call, read, outputs, None, scale, _EXECUTOR)
    if outside and loss is not None:
        name = "input" if outside & native.INPUT_OUT_OF_RANGE else "target"
        keep = definition.kept(ARRAYS, operands.target, operands.mask, call.terms and call.terms.ignore_index)
        arrays.refuse_out_of_range(name, getattr(operands, name), keep)


def new_like(tensor: Tensor) -> Tensor:
    """In two thirds of torch's own time, and a large one in memory that is kept."""
    if _is_copied_when_written(tensor) or not tensor.is_contiguous():
        return torch.empty_like(tensor)
    result: Tensor = _new_tensor(tensor, False)
    return result


def new_elements(call: Call, operands: Operands) -> Tensor:
    """The losses of the elements: torch's two functions differ in whose strides the result takes."""
    like = operands.input if call.loss.probabilities else operands.target
    dtype = DTYPE[call.dtype]
    return new_like(like) if like.dtype == dtype else torch.empty_like(like, dtype=dtype)


def new_loss(call: Call, operands: Operands) -> Tensor:
    if call.reduction == "none":
        return new_elements(call, operands)
    scalar: Tensor = _new_tensor(_SCALAR[call.dtype], True)
    return scalar


def _is_memory(incoming: Tensor) -> bool:
    """Whether the kernel can read it: no sparse gradient, no negated view, no zeros that nobody has allocated."""
    return incoming.layout is torch.strided and not incoming.is_neg() and not incoming._is_zerotensor()


class KernelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *given: Any) -> Tensor:
        """Takes input and target alone, all but the options, or all eight operands."""
        ctx.save_for_backward(*given)
        ctx.call, ctx.made = call, None
        operands = _operands(given)
        by_element = call.reduction == "none"
        loss: Tensor = new_elements(call, operands) if by_element else _new_tensor(_SCALAR[call.dtype], True)
        # Offloading and checkpointing have hooks, which would not see a gradient that is kept beside the saved tensors.
        if not by_element and ctx.needs_input_grad[1] and _top_hooks(False) is None:
            gradient, incoming = new_like(given[0]), _expected_incoming  # read once: threads write it
            run(call, operands, loss, gradient, incoming)
            ctx.made = (gradient, incoming)
        else:
            run(call, operands, loss, None)
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        if ctx.made is _SPENT:
            raise RuntimeError(
                "inplace_backward: a second backward through this loss; the first one has overwritten the logits with "
                "their gradient. Call the loss again, or without inplace_backward=True."
            )
        operands = _operands(ctx.saved_tensors)  # raises if one was modified since
        needed = ctx.needs_input_grad  # of the call first, and of as many operands as were given
        if (
            _is_grad_enabled()  # create_graph
            or in_transform()
            or _is_compiling()  # compiled autograd
            or type(incoming) is not Tensor
            or _is_legacy_batched(incoming)  # is_grads_batched, unknown to torch.func
            or (call.reduction == "none" and not _is_memory(incoming))
        ):
            if ctx.made is _IN_PLACE:
                raise RuntimeError(
                    "inplace_backward: no gradient of a gradient (create_graph=True) and no torch.func transform; "
                    "call the loss without inplace_backward=True."
                )
            return (None, *arrays.gradients(call, operands, incoming, needed[1:]))
        rest: tuple[Tensor | None, ...] = (None, *_NO_OTHERS)  # of which autograd takes as many as it has use for
        if True in needed[2:]:  # first, since in place the logits are gone afterwards
            rest = arrays.gradients(call, operands, incoming, (None, *needed[2:]))[1:]
        return (None, _input_gradient(ctx, call, operands, incoming) if needed[1] else None, *rest)


class _InPlaceLoss(KernelLoss):
    """The loss whose gradient will take the place of the logits."""

    @staticmethod
    def forward(ctx: Any, call: Call, *given: Any) -> Tensor:
        ctx.save_for_backward(*given)
        ctx.call, ctx.made = call, _IN_PLACE
        operands = _operands(given)
        loss = new_loss(call, operands)
        run(call, operands, loss, None)
        return loss


_IN_PLACE, _SPENT = object(), object()

# Function.apply without its handling of torch.func, which never gets here and costs a tenth of a small loss.
_apply: Any = super(torch.autograd.Function, KernelLoss).apply
_apply_in_place: Any = super(torch.autograd.Function, _InPlaceLoss).apply


def _input_gradient(ctx: Any, call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    global _expected_incoming
    scale = incoming if call.reduction == "none" else incoming.item()
    if ctx.made is _IN_PLACE:
        ctx.made = _SPENT
        gradient: Tensor = operands.input.detach()
        run(call, operands, None, gradient, scale)
        torch.autograd.graph.increment_version(operands.input)
        return gradient
    if ctx.made is None:
        gradient, made_for = new_like(operands.input), None
    else:
        # Handed over, not kept: autograd would have to copy a gradient that somebody else holds.
        (gradient, made_for), ctx.made = ctx.made, None
    if made_for is None or scale != made_for:
        run(call, operands, None, gradient, scale)
        if not isinstance(scale, Tensor):
            _expected_incoming = scale
    return gradient


def loss(call: Call, operands: Operands, inplace: bool = False) -> Tensor:
    input, target, weight, sample_weight, pos_weight, mask, label_smoothing, gamma, _ = operands
    if _is_grad_enabled() and (
        input.requires_grad
        or target.requires_grad
        or (weight is not None and weight.requires_grad)
        or (sample_weight is not None and sample_weight.requires_grad)
        or (pos_weight is not None and pos_weight.requires_grad)
        or (label_smoothing is not None and label_smoothing.requires_grad)
        or (gamma is not None and gamma.requires_grad)
    ):
        apply = _apply
        if inplace:
            _check_inplace(operands)
            apply = _apply_in_place
        result: Tensor
        if label_smoothing is not None or gamma is not None:
            result = apply(call, *operands[:8])
        elif weight is sample_weight is pos_weight is mask is None:
            result = apply(call, input, target)
        else:
            result = apply(call, *operands[:6])
        return result
    result = new_loss(call, operands)
    run(call, operands, result, None)
    return result


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _check_inplace(operands: Operands) -> None:
    input = operands.input
    if not input.requires_grad:
        return
    if input.is_leaf:
        why = "the logits are a leaf, whose value the optimizer needs"
    elif input._is_view():
        why = "the logits are a view of another tensor, which would be overwritten with them"
    elif any(step == 0 and size > 1 for size, step in zip(input.shape, input.stride(), strict=True)):
        why = "the logits are expanded, so that several elements share one place"
    elif any(operand is not None and _share_memory(input, operand) for operand in operands[1:]):
        why = "the logits share memory with another operand"
    else:
        return
    raise RuntimeError(f"inplace_backward: {why}. Call the loss without inplace_backward=True.")
