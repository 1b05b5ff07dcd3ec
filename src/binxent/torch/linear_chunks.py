"""The chunks of a linear head on torch's tensors: the products are torch's, the pass over each chunk a kernel's."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from binxent import linear
from binxent.call import KEPT, ROWS, SIZE, WEIGHTS, Operands, normalized
from binxent.torch import arrays, blocks, cpu, cuda
from binxent.torch.arrays import DTYPE, NAME
from binxent.torch.context import is_autocast_available

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from binxent.call import Call

HALVES = (torch.bfloat16, torch.float16)

# The logits of a chunk on the processor, and elsewhere. Smaller chunks than these have slower products, and larger ones
# leave the caches.
CHUNK, CHUNK_ELSEWHERE = 16 * 2**20, 64 * 2**20


class Head(NamedTuple):
    """A linear head: the call of its loss, and how its logits are made."""

    call: Call
    product: torch.dtype  # in which F.linear would compute: that of autocast, or the operands' own
    accumulator: torch.dtype  # of the input's gradient
    max_chunk_bytes: int | None


class Linear(NamedTuple):
    """What the logits are made of."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None


class Made(NamedTuple):
    """The gradients that were asked for, in the order of ``Linear``."""

    gradients: list[Tensor]
    incoming: Any  # the incoming gradient that they were made for: a number, or a tensor on the device
    kernel: ModuleType


@functools.lru_cache(maxsize=2)
def _has_products(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies this half type itself. Where it emulates that, float32 is much faster."""
    if dtype == torch.bfloat16:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cpu._is_amx_fp16_supported())


def _dtype_of_chunks(product: torch.dtype, device: torch.device) -> torch.dtype:
    emulated = device.type == "cpu" and product in HALVES and not _has_products(product)
    return torch.float32 if emulated else product


def _kernel(call: Call, operands: Operands, like: Tensor) -> ModuleType:
    """The module that computes a chunk of these operands, whose logits lie where ``like`` does."""
    given = [tensor for tensor in arrays.tensors(operands)[1:] if tensor is not None]
    if not cuda.RUNS_ON_CPU and like.is_cpu and all(cpu.is_plain(operand, False) for operand in given):
        return cpu
    numbers = [number for number in operands[6:9] if number is not None and not number.is_cpu]
    reads = cuda.reads((like, *operands[1:6], operands.neg_weight, *numbers), False)
    return cuda if reads and (like.is_cpu or like.is_cuda) else blocks


def _of_the_whole(kernel: ModuleType, call: Call, operands: Operands, whole: Tensor) -> tuple[Call, Operands]:
    """The call of each chunk, which divides by what all labels together give. Of ``whole`` only the shape is read."""
    if call.divisor in (SIZE, ROWS):
        return call._replace(divisor=whole.numel() if call.divisor == SIZE else len(whole)), operands
    if call.divisor not in (KEPT, WEIGHTS):
        return call, operands
    return normalized(call, None), operands._replace(normalizer=kernel.measure(call, operands._replace(input=whole)))


class _Chunks:
    """The labels of each chunk, and memory that all chunks share: small tensors made for each would fragment it."""

    def __init__(self, made_of: Linear, dtype: torch.dtype, max_chunk_bytes: int | None, of_weight: Tensor | None):
        self.made_of, self.x = made_of, made_of.input.to(dtype)
        (rows, features), labels = made_of.input.shape, len(made_of.weight)
        most = max_chunk_bytes or (CHUNK if made_of.input.device.type == "cpu" else CHUNK_ELSEWHERE)
        casts = made_of.weight.dtype != dtype
        step = linear.labels_of_chunk(labels, linear.bytes_of_label(rows, features, dtype.itemsize, casts=casts), most)
        self.parts = list(linear.chunks(labels, step))
        self.memory = self.x.new_empty(rows * min(step, labels))
        self.weight = self.x.new_empty((step, features)) if casts else None
        self.of_weight = self.x.new_empty((step, features)) if casts and of_weight is not None else None

    def __iter__(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """The first label of each chunk and the one behind its last, its logits, and its part of the weight."""
        rows, x, bias = len(self.x), self.x, self.made_of.bias
        for start, stop in self.parts:
            w = self.made_of.weight[start:stop]
            if self.weight is not None:
                w = self.weight[: stop - start].copy_(w)
            logits = self.memory[: rows * (stop - start)].view(rows, stop - start)
            if bias is None:
                torch.mm(x, w.t(), out=logits)
            else:
                torch.addmm(linear.window(bias, start, stop).to(x.dtype), x, w.t(), out=logits)
            yield start, stop, logits, w

    def write_gradient(self, of_weight: Tensor, gradient: Tensor, start: int, stop: int) -> None:
        """Writes the final gradient to the chunk's part of the weight."""
        if self.of_weight is None:
            torch.mm(gradient.t(), self.x, out=of_weight[start:stop])
        else:
            of_weight[start:stop] = torch.mm(gradient.t(), self.x, out=self.of_weight[: stop - start])


def compute(
    head: Head,
    made_of: Linear,
    operands: Operands,
    needed: Sequence[bool],
    incoming: Any = 1.0,
    want_loss: bool = True,
) -> tuple[Tensor | None, list[Tensor]]:
    """The loss, and the gradients that are needed, for an incoming gradient. ``operands`` have no input."""
    device = made_of.input.device
    if is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):  # which would cast the operands of each product again
            return compute(head, made_of, operands, needed, incoming, want_loss)
    with torch.no_grad():
        return _compute(head, made_of, operands, needed, incoming, want_loss)


def _compute(
    head: Head, made_of: Linear, operands: Operands, needed: Sequence[bool], incoming: Any, want_loss: bool
) -> tuple[Tensor | None, list[Tensor]]:
    input, weight, bias = made_of
    to_input, to_weight, to_bias = needed
    rows, labels, device = len(input), len(weight), input.device
    kernel, dtype = _kernel(head.call, operands, input), _dtype_of_chunks(head.product, device)
    wide = "float64" if dtype == torch.float64 else "float32"
    whole = input.new_empty(()).expand(rows, labels)
    call, operands = _of_the_whole(kernel, linear.call_of_chunks(head.call), operands, whole)

    of_input = torch.zeros_like(input, dtype=head.accumulator) if to_input else None
    of_weight = torch.empty_like(weight) if to_weight else None
    of_bias = torch.zeros_like(bias, dtype=DTYPE[wide]) if to_bias and bias is not None else None
    chunks = _Chunks(made_of, dtype, head.max_chunk_bytes, of_weight)
    totals = torch.empty(len(chunks.parts), dtype=_dtype_of_sums(device), device=device)
    for number, (start, stop, logits, w) in enumerate(chunks):
        part = linear.operands_of_chunk(operands, logits, start, stop)
        kernel.loss_of_chunk(call, part, totals[number] if want_loss else None, any(needed), incoming)
        gradient = logits  # in whose memory the kernel has put it
        if of_weight is not None:
            chunks.write_gradient(of_weight, gradient, start, stop)
        if of_input is not None:
            add_product(of_input, gradient, w)
        if of_bias is not None:
            own = linear.window(of_bias, start, stop)
            own += gradient.sum(0, dtype=own.dtype) if own.dim() else gradient.sum(dtype=own.dtype)

    loss = totals.sum().to(DTYPE[head.call.dtype]) if want_loss else None
    found = (of_input, of_weight, of_bias)
    return loss, [
        gradient.to(operand.dtype)
        for gradient, operand in zip(found, made_of, strict=True)
        if gradient is not None and operand is not None
    ]


def _dtype_of_sums(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Metal has no float64


def add_product(added: Tensor, gradient: Tensor, weight: Tensor) -> None:
    """Add the product to the input's gradient, rounded as little as torch can."""
    if added.dtype == gradient.dtype:
        added.addmm_(gradient, weight)
    elif added.is_cuda and added.dtype == torch.float32 and gradient.dtype in HALVES:
        added += torch.mm(gradient, weight, out_dtype=torch.float32)
    else:
        added += gradient @ weight


def loss_and_gradients(head: Head, made_of: Linear, operands: Operands, needed: Sequence[bool]) -> tuple[Tensor, Made]:
    """The loss, and the gradients that are needed, made for the incoming gradient that is expected."""
    kernel = _kernel(head.call, operands, made_of.input)
    first = linear.made_for(NAME[head.product], head.call.reduction, len(made_of.weight))
    incoming = kernel.incoming_of_head(made_of.input, head.product, first)
    loss, gradients = compute(head, made_of, operands, needed, incoming)
    assert loss is not None
    return loss, Made(gradients, incoming, kernel)


def rescaled(head: Head, made_of: Linear, made: Made, incoming: Tensor) -> list[Tensor]:
    """The gradients for the incoming gradient that has come: in place and with one more rounding, if it is another."""
    made.kernel.rescale(made_of.input, head.product, made.gradients, incoming, made.incoming)
    return made.gradients


def top(made_of: Linear, product: torch.dtype, k: int, max_chunk_bytes: int | None) -> tuple[Tensor, Tensor]:
    """The k largest logits of each row in descending order, and their labels."""
    rows, device = len(made_of.input), made_of.input.device
    dtype = _dtype_of_chunks(product, device)
    best = torch.empty((rows, 0), dtype=dtype, device=device)
    labels = torch.empty((rows, 0), dtype=torch.int64, device=device)
    for start, stop, logits, _ in _Chunks(made_of, dtype, max_chunk_bytes, None):
        values, places = logits.topk(min(k, stop - start))
        best, labels = torch.cat((best, values), 1), torch.cat((labels, places + start), 1)
        best, order = best.topk(min(k, best.shape[1]))
        labels = labels.gather(1, order)
    return best, labels
