"""The kernels on a sparse target, as operators that torch.compile can put into a graph: see ``operators``.

The target is three tensors there, which ``sparse_rows`` makes of the labels: on the processor it refuses a wrong one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent.call import Operands, plan
from binxent.targets import SparseRows
from binxent.torch import arrays, operators, sparse
from binxent.torch.context import in_transform

if TYPE_CHECKING:
    from binxent.call import Call

_ROWS = "Tensor offsets, Tensor indices, Tensor? values"
_OPERANDS = operators.OPERANDS.replace("Tensor target", _ROWS)

# Inductor's cache on disk goes by their names and arguments: change what one does, and give it another name.
_library = torch.library.Library("binxent", "FRAGMENT")
_library.define(
    "sparse_rows(Tensor indices, Tensor? offsets, int? padding, SymInt height, SymInt width, bool is_set) "
    "-> (Tensor offsets, Tensor indices, Tensor places)"
)
_library.define(f"sparse_loss_alone({_OPERANDS}, {operators.CALL}) -> Tensor")
_library.define(f"sparse_loss_and_gradient({_OPERANDS}, {operators.CALL}) -> (Tensor loss, Tensor token)")
_library.define(f"sparse_input_gradient(Tensor incoming, Tensor? token, {_OPERANDS}, {operators.CALL}) -> Tensor")


def _dense_order(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments in the order of ``operators``, with the rows in the place of the target."""
    input, offsets, indices, values, *others = arguments
    return (input, SparseRows(offsets, indices, values, input.shape), *others)


def _flat(call: Call, operands: Operands) -> tuple[Any, ...]:
    input, rows, *others = operators.flat(call, operands)
    return (input, *rows[:3], *others)


# What the operators compute


def _sparse_rows(
    indices: Tensor, offsets: Tensor | None, padding: int | None, height: int, width: int, is_set: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As many indices as there were: those that are beyond the last offset mean nothing."""
    found, places = sparse.on_processor(indices, offsets, padding, (height, width), is_set=is_set)
    size = indices.numel()

    def filled(tensor: Tensor) -> Tensor:
        whole = tensor.new_zeros(size)
        whole[: tensor.numel()] = tensor
        return whole

    places = torch.arange(size) if places is None else filled(places)
    return found.offsets.clone(), filled(found.indices), places


_library.impl("sparse_rows", _sparse_rows, "CPU")


def _fake_sparse_rows(
    indices: Tensor, offsets: Tensor | None, padding: int | None, height: int, width: int, is_set: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = indices.dtype if indices.dtype in (torch.int32, torch.int64) else torch.int64
    size = indices.numel()
    places = indices.new_empty(size, dtype=torch.int64)
    return indices.new_empty(height + 1, dtype=torch.int64), indices.new_empty(size, dtype=dtype), places


torch.library.register_fake("binxent::sparse_rows", _fake_sparse_rows, lib=_library)


def _implement(name: str, device: str) -> None:
    function = operators.implementations[name, device]
    before = 2 if name == "input_gradient" else 0

    def implementation(*arguments: Any) -> Any:
        return function(*arguments[:before], *_dense_order(arguments[before:]))

    _library.impl(f"sparse_{name}", implementation, device)


def _fake(name: str) -> None:
    function = operators.fakes[name]
    before = 2 if name == "input_gradient" else 0

    def fake(*arguments: Any) -> Any:
        return function(*arguments[:before], *_dense_order(arguments[before:]))

    torch.library.register_fake(f"binxent::sparse_{name}", fake, lib=_library)


for _name in ("loss_alone", "loss_and_gradient", "input_gradient"):
    _fake(_name)
    for _device in ("CPU", "CUDA"):
        _implement(_name, _device)


class _OperatorLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Tensor:
        ctx.call = call
        arguments, token = _flat(call, Operands(*_dense_order(tensors))), None
        loss: Tensor
        with torch._C._AutoDispatchBelowAutograd():
            if call.reduction != "none" and ctx.needs_input_grad[1]:
                loss, token = torch.ops.binxent.sparse_loss_and_gradient(*arguments)
            else:
                loss = torch.ops.binxent.sparse_loss_alone(*arguments)
        ctx.save_for_backward(token, *tensors)
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
        call: Call = ctx.call
        token, *tensors = ctx.saved_tensors
        operands = Operands(*_dense_order(tuple(tensors)))
        to_input, rest = ctx.needs_input_grad[1], ctx.needs_input_grad[5:]
        to_rest: tuple[Tensor | None, ...] = (None,) * len(rest)
        found: Any = None
        # Grad mode is on under create_graph, where a backend keeps autograd's own backward.
        if in_transform() or torch.is_grad_enabled():
            found, _, *others = arrays.gradients(call, operands, incoming, (to_input, False, *rest))
            return (None, found, None, None, None, *others)
        if True in rest:
            to_rest = arrays.gradients(call, operands, incoming, (False, False, *rest))[2:]
        if to_input:
            found = torch.ops.binxent.sparse_input_gradient(incoming, token, *_flat(call, operands))
        return (None, found, None, None, None, *to_rest)


def _autograd_loss(*arguments: Any) -> Tensor:
    call, operands = operators.read(_dense_order(arguments), plan)
    if in_transform():
        return arrays.loss(call, operands)
    result: Tensor
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            result = torch.ops.binxent.sparse_loss_alone(*arguments)
        return result
    rows = operands.target
    result = _OperatorLoss.apply(call, operands.input, *rows[:3], *operands[2:])  # type: ignore[no-untyped-call]
    return result


_library.impl("sparse_loss_alone", _autograd_loss, "Autograd")


def loss(call: Call, operands: Operands) -> Tensor:
    result: Tensor = torch.ops.binxent.sparse_loss_alone(*_flat(call, operands))
    return result
