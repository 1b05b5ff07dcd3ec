"""The kernel as operators that torch.compile can put into a graph.

Their autograd is written out here and not registered with ``register_autograd``: that would drop the tangents of
forward-mode AD without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binxent.torch import composite, eager
from binxent.torch.call import Call, Operands, new_loss, run

_OPERANDS = "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? pos_weight"
_CALL = "bool probabilities, str reduction, ScalarType dtype"

_library = torch.library.Library("binxent", "DEF")
_library.define(f"loss({_OPERANDS}, {_CALL}) -> Tensor")
_library.define(f"input_gradient(Tensor incoming, {_OPERANDS}, {_CALL}) -> Tensor")


def _loss(*arguments: Any) -> Tensor:
    operands, call = arguments[:5], Call(*arguments[5:])
    loss = new_loss(call, operands)
    run(call, operands, loss, None)
    return loss


def _input_gradient(incoming: Tensor, *arguments: Any) -> Tensor:
    operands, call = arguments[:5], Call(*arguments[5:])
    gradient = torch.empty_like(operands[0])
    run(call, operands, None, gradient, incoming if call.reduction == "none" else incoming.item())
    return gradient


def _fake_loss(input: Tensor, target: Tensor, *rest: Any) -> Tensor:
    probabilities, reduction, dtype = rest[-3:]
    if reduction != "none":
        return input.new_empty((), dtype=dtype)
    return torch.empty_like(input if probabilities else target, dtype=dtype)


class _OperatorLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.call = call
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = torch.ops.binxent.loss(*tensors, *call[:3])
        return result

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        operands: Operands = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if eager.in_transform():
            return (None, *composite.gradients(call, operands, incoming, needed))
        rest: tuple[Tensor | None, ...] = (None, None, None, None)
        if True in needed[1:]:
            rest = composite.gradients(call, operands, incoming, (False, *needed[1:]))[1:]
        to_input = torch.ops.binxent.input_gradient(incoming, *operands, *call[:3]) if needed[0] else None
        return (None, to_input, *rest)


def _autograd_loss(*arguments: Any) -> Tensor:
    operands, call = arguments[:5], Call(*arguments[5:])
    if eager.in_transform():
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
    result: Tensor = torch.ops.binxent.loss(*operands, *call[:3])
    return result
