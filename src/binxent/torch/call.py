"""One call of the loss: what was asked for, and the kernel's work on torch's memory."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import NamedTuple

import torch
from torch import Tensor

from binxent import formula, kernel, options

_SCALAR = {
    dtype: torch.empty((), dtype=dtype, device="cpu")
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
TAG = {getattr(torch, name): tag for name, tag in kernel.TAGS.items()}

# torch's own threads: torch.set_num_threads holds, and no second pool competes with them.
_LIBRARY = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
_EXECUTOR = ctypes.cast(_LIBRARY.torch_parallel_for, ctypes.c_void_p).value or 0


class Call(NamedTuple):
    probabilities: bool
    reduction: str
    dtype: torch.dtype  # of the result
    terms: options.Terms | None = None
    inplace_backward: bool = False
    check_range: bool = False  # of probabilities on an accelerator, where it costs a synchronisation


def with_values(call: Call, operands: Operands) -> Call:
    """The call with the numbers that its label_smoothing and gamma hold: so the kernel takes them."""
    smoothing, gamma = operands[6:]
    numbers = call.terms or options.Terms()
    terms = options.terms(
        numbers.ignore_index,
        numbers.label_smoothing if smoothing is None else smoothing.item(),
        numbers.gamma if gamma is None else gamma.item(),
        str(operands[1].dtype).removeprefix("torch."),
    )
    return call._replace(terms=terms)


# The same call is made at each step, and found in a third of the time that it takes to make.
known_call = functools.lru_cache(maxsize=64)(Call)

# input, target, weight, sample_weight (of shape [N, 1, …, 1]), pos_weight, mask, label_smoothing and gamma. The last
# two, of shape [], stand here only where they must be tensors; elsewhere they are numbers in Call.terms.
Operands = tuple[
    Tensor,
    Tensor,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
]


def divisor(call: Call, operands: Operands) -> float | str:
    input, _, weight, sample_weight, _, mask, _, _ = operands
    return options.divisor(
        call.reduction,
        input.shape,
        selects=options.selects(mask, call.terms),
        weighted=weight is not None or sample_weight is not None,
    )


_is_copied_when_written = torch._C._is_cow_tensor  # type: ignore[attr-defined]


def _source(tensor: Tensor) -> kernel.Operand:
    """The tensor, but for one that is to be copied when it is written: the kernel's own reading would copy it."""
    if not _is_copied_when_written(tensor):
        return tensor
    size = tensor.element_size()
    address = torch._C._data_address(tensor) + tensor.storage_offset() * size  # type: ignore[attr-defined]
    return address, TAG[tensor.dtype], tensor.shape, tuple(step * size for step in tensor.stride())


def run(
    call: Call,
    operands: Operands,
    loss: Tensor | None,
    gradient: Tensor | None,
    incoming: Tensor | float = 1.0,
) -> None:
    """Write the loss, the gradient for the incoming gradient, or both, in one pass over memory."""
    probabilities, reduction, _, terms, _, _ = call
    input, target, weight, sample_weight, pos_weight, mask, _, _ = operands
    weights: tuple[kernel.Operand, ...] = () if weight is None else (_source(weight),)
    if sample_weight is not None:
        weights += (_source(sample_weight),)
    if not isinstance(incoming, float):  # one for each element: a weight like any other
        weights += (_source(incoming),)
        incoming = 1.0
    by_element = reduction == "none"
    # The answer to the plainest call: asking ``divisor`` for it takes 0.3 µs more.
    plainest = mask is None and terms is None and reduction == "mean"
    outside = kernel.compute(
        probabilities,
        _source(input),
        _source(target),
        weights,
        None if pos_weight is None else _source(pos_weight),
        None if mask is None else _source(mask),
        terms,
        loss if by_element else None,
        None if by_element else loss,
        gradient,
        input.numel() if plainest else divisor(call, operands),
        incoming,
        _EXECUTOR,
    )
    if outside and loss is not None:
        keep = formula.kept(target, mask, terms and terms.ignore_index)
        if outside & kernel.INPUT_OUT_OF_RANGE:
            refuse_out_of_range("input", input, keep)
        refuse_out_of_range("target", target, keep)


def new_like(tensor: Tensor) -> Tensor:
    """In two thirds of torch's own time, and a large one in memory that is kept."""
    if _is_copied_when_written(tensor) or not tensor.is_contiguous():
        return torch.empty_like(tensor)
    result: Tensor = kernel.new_tensor(tensor, False)
    return result


def new_loss(call: Call, operands: Operands) -> Tensor:
    if call.reduction != "none":
        scalar: Tensor = kernel.new_tensor(_SCALAR[call.dtype], True)
        return scalar
    # torch's two functions differ in whose strides the result takes.
    like = operands[0] if call.probabilities else operands[1]
    return new_like(like) if like.dtype == call.dtype else torch.empty_like(like, dtype=call.dtype)


def refuse_out_of_range(name: str, tensor: Tensor, keep: Tensor | None = None) -> None:
    wrong = ~((tensor >= 0) & (tensor <= 1))
    first = tuple(torch.nonzero(wrong if keep is None else wrong & keep)[0].tolist())
    raise RuntimeError(options.no_probability(name, first, tensor[first].item(), hint=False))
