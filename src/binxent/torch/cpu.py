"""The native kernel on torch's tensors: what ``eager`` and ``operators`` ask of a kernel, in the processor's memory."""

from __future__ import annotations

import ctypes
import math
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import definition, kernels
from binxent.call import FLOATING, WEIGHTS, Operands
from binxent.kernels import native
from binxent.targets import SparseRows
from binxent.torch import arrays
from binxent.torch.arrays import ARRAYS, DTYPE
from binxent.torch.values import refusal_of_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from binxent.call import Call

Made = tuple[Tensor, float]  # a gradient, and the incoming gradient that it was made for

TAG = {DTYPE[name]: tag for name, tag in native.TAGS.items()}

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or the scale of mixed precision or of gradient accumulation. Where another one comes, the kernel runs again, so
# this only ever decides what is computed twice, never a result.
_expected_incoming = 1.0

# torch's own threads: torch.set_num_threads holds, and no second pool competes with them.
LIBRARY = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
EXECUTOR = ctypes.cast(LIBRARY.torch_parallel_for, ctypes.c_void_p).value or 0

_SCALAR = {name: torch.empty((), dtype=DTYPE[name], device="cpu") for name in FLOATING}

# Bound once: looking up an attribute of torch is measurable in a loss of 64 elements.
_STRIDED, _PARAMETER = torch.strided, torch.nn.Parameter
_is_copied_when_written = torch._C._is_cow_tensor  # type: ignore[attr-defined]
_new_tensor, _compute = native.new_tensor, native.compute
_MAY_READ = kernels.is_chosen("native")


def reads(dtype: torch.dtype, device: torch.device, layout: torch.layout) -> bool:
    """What ``is_plain`` asks of a tensor's dtype, device and layout, where a compiler has no more of it."""
    return _MAY_READ and dtype in TAG and device.type == "cpu" and layout is _STRIDED


def is_plain(tensor: Tensor, compiling: bool) -> bool:
    """Whether it is this machine's memory, just as it is, in a dtype that the kernel reads."""
    return (
        _MAY_READ
        and (type(tensor) is Tensor or type(tensor) is _PARAMETER)
        and tensor.is_cpu
        and tensor.dtype in TAG
        and (compiling or not tensor.is_neg())  # which torch.compile cannot ask
        and tensor.layout is _STRIDED
    )


def reads_option(option: Tensor, input: Tensor, compiling: bool) -> bool:
    """Whether it is a learnt number that the kernel can be told."""
    return is_plain(option, compiling)


def is_readable_gradient(call: Call, incoming: Tensor) -> bool:
    """Whether the kernel can read it: no sparse gradient, no negated view, no zeros that nobody has allocated."""
    return call.reduction != "none" or (
        incoming.layout is _STRIDED and not incoming.is_neg() and not incoming._is_zerotensor()
    )


def _source(tensor: Any) -> native.Operand | None:
    """The tensor, but for one that is to be copied when it is written: the kernel's own reading would copy it."""
    if tensor is None or type(tensor) is SparseRows or not _is_copied_when_written(tensor):
        return tensor
    size = tensor.element_size()
    address = torch._C._data_address(tensor) + tensor.storage_offset() * size  # type: ignore[attr-defined]
    return address, TAG[tensor.dtype], tensor.shape, tuple(step * size for step in tensor.stride())


def _run(
    call: Call, operands: Operands, loss: Tensor | None, gradient: Tensor | None, incoming: Tensor | float = 1.0
) -> None:
    """Write the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
    read = operands
    dense = operands if type(operands[1]) is not SparseRows else (operands[0], *operands[2:])
    for operand in dense:
        if operand is not None and _is_copied_when_written(operand):
            read = Operands(*map(_source, operands))
            break
    if operands[6] is not None or operands[7] is not None:
        call = arrays.with_values(call, operands)
    scale = incoming if isinstance(incoming, float) else _source(incoming)
    outputs = (loss, None, gradient) if call.reduction == "none" else (None, loss, gradient)  # of ``Outputs``
    divisor = None if operands[8] is None else operands[8].item()
    outside = _compute(call, read, outputs, divisor, scale, EXECUTOR)
    if outside and loss is not None:
        name = "input" if outside & native.INPUT_OUT_OF_RANGE else "target"
        operands = arrays.with_dense_target(operands)
        keep = definition.kept(ARRAYS, operands.target, operands.mask, call.terms and call.terms.ignore_index)
        if call.checks_targets and (wrong := refusal_of_targets(operands, keep)):
            raise RuntimeError(wrong)
        arrays.refuse_out_of_range(name, getattr(operands, name), keep)


def _new_like(tensor: Tensor) -> Tensor:
    """In two thirds of torch's own time, and a large one in memory that is kept."""
    if _is_copied_when_written(tensor) or not tensor.is_contiguous():
        return torch.empty_like(tensor)
    result: Tensor = _new_tensor(tensor, False)
    return result


def measure(call: Call, operands: Operands) -> Tensor:
    """What the divisor counts."""
    counted = native.measure(call, operands, EXECUTOR)
    return torch.tensor(counted, dtype=torch.float64 if call.divisor == WEIGHTS else torch.int64)


def loss_alone(call: Call, operands: Operands) -> Tensor:
    loss: Tensor
    if call.reduction != "none":
        loss = _new_tensor(_SCALAR[call.dtype], True)
    else:
        like, dtype = arrays.like_elements(call, operands), DTYPE[call.dtype]
        loss = _new_like(like) if like.dtype == dtype else torch.empty_like(like, dtype=dtype)
    _run(call, operands, loss, None)
    return loss


def loss_and_gradient(call: Call, operands: Operands) -> tuple[Tensor, Made]:
    """The loss as one number, and the gradient to the input, in one pass."""
    loss: Tensor = _new_tensor(_SCALAR[call.dtype], True)
    gradient, incoming = _new_like(operands[0]), _expected_incoming  # read once: threads write it
    _run(call, operands, loss, gradient, incoming)
    return loss, (gradient, incoming)


def input_gradient(call: Call, operands: Operands, incoming: Tensor, made: Made | None) -> Tensor:
    """The gradient that was made, if it was made for this incoming gradient; else another one."""
    global _expected_incoming
    if call.reduction == "none":
        gradient = _new_like(operands[0])
        _run(call, operands, None, gradient, incoming)
        return gradient
    scale = incoming.item()
    gradient, made_for = made or (_new_like(operands[0]), None)
    if scale != made_for:
        _run(call, operands, None, gradient, scale)
        _expected_incoming = scale
    return gradient


def gradient_in_place(call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    """The gradient to the input, in the input's own memory."""
    gradient: Tensor = operands.input.detach()
    _run(call, operands, None, gradient, incoming if call.reduction == "none" else incoming.item())
    return gradient


def loss_of_chunk(call: Call, operands: Operands, total: Tensor | None, with_gradient: bool, incoming: float) -> None:
    """The sum of the losses of a linear head's chunk, and the gradient in the place of its logits, in one pass."""
    _run(call, operands, total, operands.input if with_gradient else None, incoming)


_last_incoming: dict[torch.dtype, float] = {}  # of the heads whose products have that dtype


def incoming_of_head(like: Tensor, dtype: torch.dtype, first: float) -> float:
    """The incoming gradient to make a head's gradients for: the last backward's, since the next is likely the same."""
    return _last_incoming.get(dtype, first)


def rescale(like: Tensor, dtype: torch.dtype, gradients: Sequence[Tensor], incoming: Tensor, made_for: float) -> None:
    """Make the gradients of a head, in place, those of another incoming gradient."""
    scale = incoming.item()
    if scale != made_for:
        for gradient in gradients:
            gradient *= scale / made_for
    if scale and math.isfinite(scale):  # of any other one no gradient can be scaled to the next
        _last_incoming[dtype] = scale
