"""The kernel under autograd's tape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binxent.torch import composite
from binxent.torch.call import Call, Operands, new_like, new_loss, run
from binxent.torch.context import in_transform

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or the scale of mixed precision or of gradient accumulation. Where another one comes, the kernel runs again, so
# this only ever decides what is computed twice, never a result.
_expected_incoming = 1.0


# Found once: an attribute of an attribute takes longer to find than most of these take to answer.
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_is_grad_enabled, _is_compiling = torch.is_grad_enabled, torch.compiler.is_compiling


# Each None that autograd takes and keeps costs it time, and most losses have no operands but input and target: these
# stand for the other six.
_NO_OTHERS = (None,) * 6


def _is_memory(incoming: Tensor) -> bool:
    """Not so a sparse gradient, a negated view, or the zeros that forward-mode AD does not allocate."""
    return incoming.layout is torch.strided and not incoming.is_neg() and not incoming._is_zerotensor()


class KernelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *given: Any) -> Tensor:
        """Takes input and target alone, all but the options, or all eight operands."""
        ctx.save_for_backward(*given)
        ctx.call = call
        operands: Operands = (given + _NO_OTHERS)[:8]
        loss = new_loss(call, operands)
        fused = call.reduction != "none" and not call.inplace_backward
        # Offloading and checkpointing have hooks, which would not see a gradient that is kept beside the saved tensors.
        if fused and ctx.needs_input_grad[1] and _top_hooks(False) is None:
            gradient, incoming = new_like(operands[0]), _expected_incoming  # read once: threads write it
            run(call, operands, loss, gradient, incoming)
            ctx.made = (gradient, incoming)
        else:
            run(call, operands, loss, None)
            ctx.made = None
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        if ctx.made is _SPENT:
            raise RuntimeError(
                "inplace_backward: a second backward through this loss; the first one has overwritten the logits with "
                "their gradient. Call the loss again, or without inplace_backward=True."
            )
        operands: Operands = (ctx.saved_tensors + _NO_OTHERS)[:8]  # raises if one was modified since
        needed = ctx.needs_input_grad  # of the call first, and of as many operands as were given
        if (
            _is_grad_enabled()  # create_graph
            or in_transform()
            or _is_compiling()  # compiled autograd
            or type(incoming) is not Tensor
            or _is_legacy_batched(incoming)  # is_grads_batched, unknown to torch.func
            or (call.reduction == "none" and not _is_memory(incoming))
        ):
            if call.inplace_backward:
                raise RuntimeError(
                    "inplace_backward: no gradient of a gradient (create_graph=True) and no torch.func transform; "
                    "call the loss without inplace_backward=True."
                )
            return (None, *composite.gradients(call, operands, incoming, (*needed[1:], *_NO_OTHERS)))
        rest: tuple[Tensor | None, ...] = (None, *_NO_OTHERS)
        if True in needed[2:]:  # first, since in place the logits are gone afterwards
            rest = composite.gradients(call, operands, incoming, (None, *needed[2:], *_NO_OTHERS))[1:]
        return (None, _input_gradient(ctx, call, operands, incoming) if needed[1] else None, *rest)


_SPENT = object()

# Function.apply without its handling of torch.func, which never gets here and costs a tenth of a small loss.
_apply: Any = super(torch.autograd.Function, KernelLoss).apply


def _input_gradient(ctx: Any, call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    global _expected_incoming
    scale = incoming if call.reduction == "none" else incoming.item()
    if call.inplace_backward:
        ctx.made = _SPENT
        gradient = operands[0].detach()
        run(call, operands, None, gradient, scale)
        torch.autograd.graph.increment_version(operands[0])
        return gradient
    if ctx.made is None:
        gradient, made_for = new_like(operands[0]), None
    else:
        # Handed over, not kept: autograd would have to copy a gradient that somebody else holds.
        (gradient, made_for), ctx.made = ctx.made, None
    if made_for is None or scale != made_for:
        run(call, operands, None, gradient, scale)
        if not isinstance(scale, Tensor):
            _expected_incoming = scale
    return gradient


def loss(call: Call, operands: Operands) -> Tensor:
    input, target, weight, sample_weight, pos_weight, mask, label_smoothing, gamma = operands
    if _is_grad_enabled() and (
        input.requires_grad
        or target.requires_grad
        or (weight is not None and weight.requires_grad)
        or (sample_weight is not None and sample_weight.requires_grad)
        or (pos_weight is not None and pos_weight.requires_grad)
        or (label_smoothing is not None and label_smoothing.requires_grad)
        or (gamma is not None and gamma.requires_grad)
    ):
        if call.inplace_backward:
            _check_inplace(operands)
        result: Tensor
        if label_smoothing is not None or gamma is not None:
            result = _apply(call, *operands)
        elif weight is sample_weight is pos_weight is mask is None:
            result = _apply(call, input, target)
        else:
            result = _apply(call, *operands[:6])
        return result
    result = new_loss(call, operands)
    run(call, operands, result, None)
    return result


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _check_inplace(operands: Operands) -> None:
    input = operands[0]
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
