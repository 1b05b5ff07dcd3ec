"""A kernel under autograd's tape.

``cpu``, ``cuda`` and ``blocks`` say how a loss and its gradient are computed; here is when, and what autograd is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from binxent.call import Operands
from binxent.targets import SparseRows
from binxent.torch import arrays, blocks, cpu, cuda
from binxent.torch.context import in_transform

if TYPE_CHECKING:
    from types import ModuleType

    from binxent.call import Call

# Bound once: looking up an attribute of an attribute takes longer than most of these take to answer.
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_is_grad_enabled, _is_compiling = torch.is_grad_enabled, torch.compiler.is_compiling

_ALL = len(Operands._fields)  # the tensors of a sparse target, which are three, come after them
# Each None that autograd takes and keeps costs it time, and most losses have no operands but input and target: these
# stand for the others.
_NO_OTHERS = (None,) * (_ALL - 2)
_NO_GRADIENTS = (None,) * (_ALL - 1 + 3)  # to all but the input; autograd takes as many as it has use for

_IN_PLACE, _SPENT = object(), object()  # in place of a gradient that was made


def _operands(given: tuple[Any, ...]) -> Operands:
    """The operands that autograd was given, in half the time that the named tuple's own constructor takes."""
    if len(given) > _ALL:
        offsets, indices, values = given[_ALL:]
        return Operands(given[0], SparseRows(offsets, indices, values, given[0].shape), *given[2:_ALL])
    return tuple.__new__(Operands, (given + _NO_OTHERS)[:_ALL])


class KernelLoss(torch.autograd.Function):
    kernel: ClassVar[ModuleType] = cpu

    @staticmethod
    def forward(ctx: Any, call: Call, *given: Any) -> Tensor:
        """Takes input and target alone, all to the mask, or all operands and the tensors of a sparse target."""
        ctx.save_for_backward(*given)
        ctx.call = call
        kernel, operands = ctx._forward_cls.kernel, _operands(given)
        loss: Tensor
        # Offloading and checkpointing have hooks, which would not see a gradient that is kept beside the saved tensors.
        if call.reduction != "none" and ctx.needs_input_grad[1] and _top_hooks(False) is None:
            loss, ctx.made = kernel.loss_and_gradient(call, operands)
        else:
            loss, ctx.made = kernel.loss_alone(call, operands), None
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call, made, kernel = ctx.call, ctx.made, ctx._forward_cls.kernel
        if made is _SPENT:
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
            or not kernel.is_readable_gradient(call, incoming)
        ):
            if made is _IN_PLACE:
                raise RuntimeError(
                    "inplace_backward: no gradient of a gradient (create_graph=True) and no torch.func transform; "
                    "call the loss without inplace_backward=True."
                )
            return (None, *arrays.gradients(call, operands, incoming, needed[1:]), *_NO_GRADIENTS)
        rest: tuple[Tensor | None, ...] = _NO_GRADIENTS
        if True in needed[2:]:  # first, since in place the logits are gone afterwards
            rest = (*arrays.gradients(call, operands, incoming, (None, *needed[2:]))[1:], *_NO_GRADIENTS)
        to_input = None
        if needed[1]:
            if made is _IN_PLACE:
                ctx.made = _SPENT
                to_input = kernel.gradient_in_place(call, operands, incoming)
                torch.autograd.graph.increment_version(operands.input)
            else:
                # Handed over, not kept: autograd would have to copy a gradient that somebody else holds.
                ctx.made = None
                to_input = kernel.input_gradient(call, operands, incoming, made)
        return (None, to_input, *rest)


class _InPlaceLoss(KernelLoss):
    """The loss whose gradient will take the place of the logits."""

    @staticmethod
    def forward(ctx: Any, call: Call, *given: Any) -> Tensor:
        ctx.save_for_backward(*given)
        ctx.call, ctx.made = call, _IN_PLACE
        loss: Tensor = ctx._forward_cls.kernel.loss_alone(call, _operands(given))
        return loss


def _apply(function: type[KernelLoss], kernel: ModuleType) -> Any:
    """Function.apply without its handling of torch.func, which never gets here and costs a tenth of a small loss."""
    of_kernel = function if kernel is function.kernel else type(function.__name__, (function,), {"kernel": kernel})
    return super(torch.autograd.Function, of_kernel).apply  # type: ignore[misc]


_APPLY = {kernel: _apply(KernelLoss, kernel) for kernel in (cpu, cuda, blocks)}
_APPLY_IN_PLACE = {kernel: _apply(_InPlaceLoss, kernel) for kernel in (cpu, cuda, blocks)}


def loss(kernel: ModuleType, call: Call, operands: Operands, inplace: bool = False) -> Tensor:
    input, target, weight, sample_weight, pos_weight, mask, label_smoothing, gamma, normalizer, neg_weight = operands
    result: Tensor
    if _is_grad_enabled() and (
        input.requires_grad
        or target.requires_grad
        or (weight is not None and weight.requires_grad)
        or (sample_weight is not None and sample_weight.requires_grad)
        or (pos_weight is not None and pos_weight.requires_grad)
        or (label_smoothing is not None and label_smoothing.requires_grad)
        or (gamma is not None and gamma.requires_grad)
        or (neg_weight is not None and neg_weight.requires_grad)
    ):
        if inplace:
            _check_inplace(operands)
        apply = (_APPLY_IN_PLACE if inplace else _APPLY)[kernel]
        if not (label_smoothing is gamma is normalizer is neg_weight is None):
            result = apply(call, *operands)
        elif weight is sample_weight is pos_weight is mask is None:
            result = apply(call, input, target)
        else:
            result = apply(call, *operands[:6])
        return result
    result = kernel.loss_alone(call, operands)
    return result


def sparse_loss(kernel: ModuleType, call: Call, operands: Operands, inplace: bool = False) -> Tensor:
    """What ``loss`` gives, for a sparse target, which has no gradient."""
    input, rows, *others = operands
    result: Tensor
    if _is_grad_enabled() and any(one is not None and one.requires_grad for one in (input, *others)):
        if inplace:
            _check_inplace(operands)
        apply = (_APPLY_IN_PLACE if inplace else _APPLY)[kernel]
        result = apply(call, input, None, *others, *rows[:3])
        return result
    result = kernel.loss_alone(call, operands)
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
    elif any(operand is not None and _share_memory(input, operand) for operand in arrays.tensors(operands)[1:]):
        why = "the logits share memory with another operand"
    else:
        return
    raise RuntimeError(f"inplace_backward: {why}. Call the loss without inplace_backward=True.")
