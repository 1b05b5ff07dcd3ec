"""The kernel as operators that torch.compile can put into a graph.

Their autograd is written out here and not registered with ``register_autograd``: that would drop the tangents of
forward-mode AD without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent.call import Operands
from binxent.torch import arrays, eager
from binxent.torch.arrays import DTYPE, planned, with_values
from binxent.torch.context import in_transform

if TYPE_CHECKING:
    from binxent.call import Call

_OPERANDS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, Tensor? pos_weight, Tensor? mask, "
    "Tensor? label_smoothing, Tensor? gamma"
)
_CALL = "bool probabilities, str reduction, ScalarType dtype, float? ignore_index"

_library = torch.library.Library("binxent", "DEF")
_library.define(f"loss({_OPERANDS}, {_CALL}) -> Tensor")
_library.define(f"input_gradient(Tensor incoming, {_OPERANDS}, {_CALL}) -> Tensor")


def _flat(call: Call, operands: Operands) -> tuple[Any, ...]:
    ignore_index = None if call.terms is None else call.terms.ignore_index
    return (*operands[:8], call.loss.probabilities, call.reduction, DTYPE[call.dtype], ignore_index)


def _read(arguments: tuple[Any, ...]) -> tuple[Call, Operands]:
    operands = Operands(*arguments[:8])
    probabilities, reduction, dtype, ignore_index = arguments[8:]
    return planned(probabilities, reduction, dtype, ignore_index, operands), operands


def _loss(*arguments: Any) -> Tensor:
    call, operands = _read(arguments)
    call = with_values(call, operands)
    loss = eager.new_loss(call, operands)
    eager.run(call, operands, loss, None)
    return loss


def _input_gradient(incoming: Tensor, *arguments: Any) -> Tensor:
    call, operands = _read(arguments)
    gradient = eager.new_like(operands.input)
    scale = incoming if call.reduction == "none" else incoming.item()
    eager.run(with_values(call, operands), operands, None, gradient, scale)
    return gradient


def _fake_loss(*arguments: Any) -> Tensor:
    input, target = arguments[:2]
    probabilities, reduction, dtype, _ = arguments[8:]
    if reduction != "none":
        result: Tensor = input.new_empty((), dtype=dtype)
        return result
    return torch.empty_like(input if probabilities else target, dtype=dtype)


class _OperatorLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.call = call
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = torch.ops.binxent.loss(*_flat(call, Operands(*tensors)))
        return result

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        operands = Operands(*ctx.saved_tensors)
        needed = ctx.needs_input_grad[1:]
        # Grad mode is on under create_graph, where a backend keeps autograd's own backward.
        if in_transform() or torch.is_grad_enabled():
            return (None, *arrays.gradients(call, operands, incoming, needed))
        rest: tuple[Tensor | None, ...] = (None,) * 7
        if True in needed[1:]:
            rest = arrays.gradients(call, operands, incoming, (False, *needed[1:]))[1:]
        to_input = torch.ops.binxent.input_gradient(incoming, *_flat(call, operands)) if needed[0] else None
        return (None, to_input, *rest)


def _autograd_loss(*arguments: Any) -> Tensor:
    call, operands = _read(arguments)
    if in_transform():
        return arrays.loss(call, operands)
    result: Tensor = _OperatorLoss.apply(call, *operands[:8])  # type: ignore[no-untyped-call]
    return result


_library.impl("loss", _loss, "CPU")
_library.impl("input_gradient", _input_gradient, "CPU")
_library.impl("loss", _autograd_loss, "Autograd")
torch.library.register_fake("binxent::loss", _fake_loss, lib=_library)
torch.library.register_fake(
    "binxent::input_gradient", lambda incoming, input, *_: torch.empty_like(input), lib=_library
)


def loss(call: Call, operands: Operands) -> Tensor:
    result: Tensor = torch.ops.binxent.loss(*_flat(call, operands))
    return result
