"""Triton's kernel on torch's tensors: what ``eager`` and ``operators`` ask of a kernel, on a CUDA card.

Nothing here waits for the device. The incoming gradient, a divisor that is measured and a learnt option stay there, and
the backward launches a program that looks at the incoming gradient and does nothing if the gradient was made for it.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import kernels
from binxent.call import GIVEN, Operands, normalized
from binxent.kernels import Outputs
from binxent.torch import arrays
from binxent.torch.arrays import DTYPE
from binxent.torch.operands import lies_on

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from binxent.call import Call

# A gradient, the incoming gradient that it was made for, and the divisor: numbers, or tensors on the device.
Made = tuple[Tensor, Any, Any]

# From so many elements on, a gradient is made for the incoming gradient of the last backward, as ``cpu`` does, since a
# loss scale would have it made twice at each step. Below, the launch that copies that number would cost as much.
_REMEMBERS_FROM = 2**22
_remembered: dict[tuple[int, int], Tensor] = {}  # for each device and stream, and written and read on that stream

_MAY_READ = kernels.is_chosen("triton")
RUNS_ON_CPU = _MAY_READ and not kernels.is_chosen("native")  # in Triton's interpreter


@functools.lru_cache(maxsize=1)
def _triton() -> ModuleType | None:
    """Triton's kernel, imported at the first call: that takes half a second. None where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    from binxent.kernels import triton

    return triton


def _is_capable(device: torch.device) -> bool:
    triton = _triton()
    return triton is not None and bool(triton.is_capable(device))


# Dynamo asks this once and puts the answer into its graph; it cannot trace an import.
_is_capable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _may_read(tensor: Tensor) -> bool:
    return _MAY_READ and (tensor.is_cuda or (RUNS_ON_CPU and tensor.is_cpu))


def reads(given: Sequence[Any], compiling: bool) -> bool:
    """Whether the kernel can compute a call of these operands: input and target first, the others in any order."""
    input = given[0]
    if input is None or not _may_read(input):
        return False
    if compiling:
        device = input.device
        return _is_capable(device) and all(
            operand is None or lies_on(device, operand) for operand in arrays.tensors(given)
        )
    triton = _triton()
    return triton is not None and bool(triton.reads(Operands(*given)))


def reads_to_count(target: Tensor, others: Sequence[Tensor | None]) -> bool:
    """Whether the kernel can count what is kept of a target, which may be of integers, beside a mask and weights."""
    triton = _triton() if _may_read(target) else None
    if triton is None or not (triton.is_memory(target) and triton.is_capable(target.device)):
        return False
    return all(other is None or (triton.is_memory(other) and other.device == target.device) for other in others)


def reads_option(option: Tensor, input: Tensor, compiling: bool) -> bool:
    """Whether it is a learnt number that the kernel can read: on its device, or a compiler's constant."""
    return (compiling and option.is_cpu) or reads((input, option), compiling)


def is_readable_gradient(call: Call, incoming: Tensor) -> bool:
    return bool(_kernel().is_memory(incoming))


def _kernel() -> Any:
    """The kernel, of which ``reads`` has told that it is there."""
    return _triton()


def _outputs(call: Call, loss: Tensor | None, gradient: Tensor | None) -> Outputs:
    return Outputs(loss, None, gradient) if call.reduction == "none" else Outputs(None, loss, gradient)


def _with_numbers(call: Call, operands: Operands) -> tuple[Call, Operands]:
    """A learnt option or a normalizer that lies on the processor, as a compiler's constants do, is a number."""
    if operands.input.is_cpu:
        return call, operands
    if operands.normalizer is not None and operands.normalizer.is_cpu:
        call = normalized(call, operands.normalizer.item())
        zero = operands.input.new_zeros(()) if call.divisor == GIVEN else None
        operands = operands._replace(normalizer=zero)
    here = {
        name: option
        for name, option in (("label_smoothing", operands.label_smoothing), ("gamma", operands.gamma))
        if option is not None and option.is_cpu
    }
    if not here:
        return call, operands
    call = arrays.with_values(call, Operands(operands.input, operands.target, **here))
    return call, operands._replace(**dict.fromkeys(here))


def _stream(tensor: Tensor) -> tuple[int, int] | None:
    """The stream that a launch goes to; None for one that is recorded, not run."""
    if not tensor.is_cuda or torch.cuda.is_current_stream_capturing():
        return None
    index = tensor.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)


def _expected_incoming(input: Tensor) -> Any:
    if input.numel() < _REMEMBERS_FROM:
        return 1.0
    stream = _stream(input)
    return 1.0 if stream is None else _remembered.get(stream, 1.0)


def _remember(input: Tensor, incoming: Tensor) -> None:
    """A copy, since whoever made the incoming gradient may write to it."""
    stream = _stream(input) if input.numel() >= _REMEMBERS_FROM else None
    if stream is not None:
        _remembered[stream] = incoming.clone()


def measure(call: Call, operands: Operands) -> Tensor:
    """What the divisor counts."""
    counted: Tensor = _kernel().measure(call, operands)
    return counted


def loss_alone(call: Call, operands: Operands) -> Tensor:
    call, operands = _with_numbers(call, operands)
    dtype = DTYPE[call.dtype]
    if call.reduction == "none":
        loss = torch.empty_like(arrays.like_elements(call, operands), dtype=dtype)
    else:
        loss = operands.input.new_empty((), dtype=dtype)
    _kernel().compute(call, operands, _outputs(call, loss, None))
    return loss


def loss_and_gradient(call: Call, operands: Operands) -> tuple[Tensor, Made]:
    """The loss as one number, and the gradient to the input, in one launch."""
    call, operands = _with_numbers(call, operands)
    input, kernel = operands.input, _kernel()
    loss, gradient = input.new_empty((), dtype=DTYPE[call.dtype]), torch.empty_like(input)
    incoming, divisor = _expected_incoming(input), kernel.measure(call, operands)
    kernel.compute(call, operands, Outputs(None, loss, gradient), divisor=divisor, incoming=incoming)
    return loss, (gradient, incoming, divisor)


def input_gradient(call: Call, operands: Operands, incoming: Tensor, made: Made | None) -> Tensor:
    """The gradient that was made, made again if it is for another incoming gradient; or one that is made now."""
    call, operands = _with_numbers(call, operands)
    if made is None:
        gradient = torch.empty_like(operands.input)
        _kernel().compute(call, operands, Outputs(gradient=gradient), incoming=incoming)
        return gradient
    gradient, made_for, divisor = made
    _kernel().remake(call, operands, gradient, incoming=incoming, made_for=made_for, divisor=divisor)
    _remember(operands.input, incoming)
    return gradient


def gradient_in_place(call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    """The gradient to the input, in the input's own memory."""
    call, operands = _with_numbers(call, operands)
    gradient: Tensor = operands.input.detach()
    _kernel().compute(call, operands, Outputs(gradient=gradient), incoming=incoming)
    return gradient


def loss_of_chunk(call: Call, operands: Operands, total: Tensor | None, with_gradient: bool, incoming: Any) -> None:
    """The sum of the losses of a linear head's chunk, and the gradient in the place of its logits, in one launch."""
    call, operands = _with_numbers(call, operands)
    outputs = Outputs(None, total, operands.input if with_gradient else None)
    _kernel().compute(call, operands, outputs, incoming=incoming)


_last_incoming: dict[tuple[int, int, torch.dtype], Tensor] = {}  # as _remembered, of heads of that dtype


def incoming_of_head(like: Tensor, dtype: torch.dtype, first: float) -> Any:
    """The incoming gradient to make a head's gradients for: the last backward's, since the next is likely the same."""
    stream = _stream(like)
    return first if stream is None else _last_incoming.get((*stream, dtype), first)


def rescale(like: Tensor, dtype: torch.dtype, gradients: Sequence[Tensor], incoming: Tensor, made_for: Any) -> None:
    """Make the gradients of a head, in place, those of another incoming gradient. Nothing waits for the device."""
    for gradient in gradients:
        _kernel().rescale(gradient, incoming=incoming, made_for=made_for)
    stream = _stream(like)
    if stream is not None:
        # Of 0, and of what is not finite, no gradient can be scaled to the next.
        fit = torch.isfinite(incoming) & (incoming != 0)
        _last_incoming[(*stream, dtype)] = torch.where(fit, incoming, torch.ones_like(incoming))
