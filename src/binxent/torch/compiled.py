"""The kernel as operators that torch.compile can put into a graph.

Their autograd is written out here and not registered with ``register_autograd``: that would drop the tangents of
forward-mode AD without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binxent.options import Terms
from binxent.torch import composite
from binxent.torch.call import Call, Operands, new_like, new_loss, run, with_values
from binxent.torch.context import in_transform

_OPERANDS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? pos_weight, Tensor? mask, "
    "Tensor? label_smoothing, Tensor? gamma"
)
_CALL = "bool probabilities, str reduction, ScalarType dtype, float? ignore_index"

_library = torch.library.Library("binxent", "DEF")
_library.define(f"loss({_OPERANDS}, {_CALL}) -> Tensor")
_library.define(f"input_gradient(Tensor incoming, {_OPERANDS}, {_CALL}) -> Tensor")


def _flat(call: Call) -> tuple[Any, ...]:
    return (*call[:3], None if call.terms is None else call.terms.ignore_index)


def _call(arguments: tuple[Any, ...]) -> tuple[Operands, Call]:
    probabilities, reduction, dtype, ignore_index = arguments[8:]
    return arguments[:8], Call(probabilities, reduction, dtype, None if ignore_index is None else Terms(ignore_index))


def _loss(*arguments: Any) -> Tensor:
    operands, call = _call(arguments)
    call = with_values(call, operands)
    loss = new_loss(call, operands)
    run(call, operands, loss, None)
    return loss


def _input_gradient(incoming: Tensor, *arguments: Any) -> Tensor:
    operands, call = _call(arguments)
    call = with_values(call, operands)
    gradient = new_like(operands[0])
    run(call, operands, None, gradient, incoming if call.reduction == "none" else incoming.item())
    return gradient


def _fake_loss(*arguments: Any) -> Tensor:
    (input, target, *_), call = _call(arguments)
    if call.reduction != "none":
        return input.new_empty((), dtype=call.dtype)
    return torch.empty_like(input if call.probabilities else target, dtype=call.dtype)


class _OperatorLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.call = call
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = torch.ops.binxent.loss(*tensors, *_flat(call))
        return result

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        operands: Operands = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        # Grad mode is on under create_graph, where a backend keeps autograd's own backward.
        if in_transform() or torch.is_grad_enabled():
            return (None, *composite.gradients(call, operands, incoming, needed))
        rest: tuple[Tensor | None, ...] = (None,) * 7
        if True in needed[1:]:
            rest = composite.gradients(call, operands, incoming, (False, *needed[1:]))[1:]
        to_input = torch.ops.binxent.input_gradient(incoming, *operands, *_flat(call)) if needed[0] else None
        return (None, to_input, *rest)


def _autograd_loss(*arguments: Any) -> Tensor:
    operands, call = _call(arguments)
    if in_transform():
        return composite.loss(call, operands)
    result: Tensor = _OperatorLoss.apply(call, *operands)  # type: ignore[no-untyped-call]
    return result


_library.impl("loss", _loss, "CPU")
_library.impl("input_gradient", _input_gradient, "CPU")
_library.impl("loss", _autograd_loss, "Autograd")
torch.library.register_fake("binxent::loss", _fake_loss, lib=_library)
torch.library.register_fake(
    "binxent::input_gradient", lambda incoming, input, *_: torch.empty_like(input), lib=_library
)


def loss(call: Call, operands: Operands) -> Tensor:
    result: Tensor = torch.ops.binxent.loss(*operands, *_flat(call))
    return result
