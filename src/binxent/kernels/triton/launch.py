"""The kernel's functions, which turn a call into a launch."""

from __future__ import annotations

import functools
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from binxent.call import GIVEN, KEPT, ROWS, SIZE, WEIGHTS
from binxent.kernels import READABLE
from binxent.kernels.triton import programs, repeated
from binxent.kernels.triton.lanes import INTERPRETED
from binxent.kernels.triton.launcher import launch
from binxent.kernels.triton.views import Rows, View
from binxent.kernels.triton.views import views as dense_views
from binxent.options import Terms
from binxent.targets import SparseRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from binxent.call import Call, Operands
    from binxent.kernels import Outputs

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = frozenset(getattr(torch, name) for name in READABLE)
HALVES = ("float16", "bfloat16")
LARGEST_FLOAT32 = 3.4028234663852886e38

# Elements of a block: 8 or 16 for each thread of 8 warps, in loads of 16 bytes.
BLOCK, SHORT_BLOCK = 2048, 4096
DEFAULTS = Terms()
REMAKERS = 8  # programs of ``remake`` on each multiprocessor


def bits(number: float, double: bool) -> int:
    """The bits of a number in the arithmetic's type."""
    if number == 0:  # the cache would take −0 for 0, since they are equal
        return (-(2**63) if double else -(2**31)) if math.copysign(1.0, number) < 0 else 0
    return _cached_bits(number, double)


@functools.lru_cache(maxsize=1024)
def _cached_bits(number: float, double: bool) -> int:
    if double:
        return int(struct.unpack("<q", struct.pack("<d", number))[0])
    try:
        packed = struct.pack("<f", number)
    except OverflowError:
        packed = struct.pack("<f", math.copysign(math.inf, number))
    return int(struct.unpack("<i", packed)[0])


def bits_of_parts(number: float, double: bool) -> int:
    """The bits that ``programs.in_parts`` takes apart: of float32, those of the number and of what they leave out."""
    high = bits(number, double)
    if double:
        return high
    rounded = struct.unpack("<f", struct.pack("<i", high))[0]
    low = number - rounded if math.isfinite(rounded) else 0.0
    # −0.0 keeps the sum wide: Triton would compile anew for one that fits into 32 bits.
    return bits(low or -0.0, double) << 32 | high % 2**32


def split_factor(factor: float, double: bool, probabilities: bool) -> tuple[float, float]:
    """The result of ``lanes.factor_of``, where the host knows both numbers."""
    size = abs(factor)
    if size == math.inf or (not double and size > LARGEST_FLOAT32):
        return math.copysign(1.0, factor), math.inf
    if 2.0**-1022 <= size < 2.0**-60 or (probabilities and size > 2.0**60):
        mantissa, exponent = math.frexp(factor)
        return 2 * mantissa, math.ldexp(1.0, exponent - 1)
    return factor, 1.0


@functools.lru_cache(maxsize=64)
def is_capable(device: torch.device) -> bool:
    """Whether Triton has bfloat16 there. ROCm and XPU have a Triton too, on which nobody has run this."""
    if device.type == "cuda":
        return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    return INTERPRETED and device.type == "cpu"


@functools.lru_cache(maxsize=64)
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


# Bound once: every call asks them of every operand.
_is_wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
_is_legacy_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor


def is_memory(tensor: object) -> bool:
    """Whether the numbers lie in memory as dtype, shape and strides say."""
    return (
        (type(tensor) is Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.dtype in DTYPES
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not _is_wrapped(tensor)
        and not _is_legacy_batched(tensor)
    )


_counters: dict[tuple[int, int], Tensor] = {}


def counter(device: torch.device) -> Tensor:
    """The counter of the programs that have finished in a launch. It is 0 before the launch and after it.

    A stream runs one launch after the other, so each stream has one counter, which no launch has to clear. A launch
    that is captured into a graph may run beside any other, and takes a counter that the graph clears.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros((), dtype=torch.int32, device=device)
    key = device.index, torch._C._cuda_getCurrentRawStream(device.index)
    found = _counters.get(key)
    if found is None:
        found = _counters.setdefault(key, torch.zeros((), dtype=torch.int32, device=device))
    return found


def block_of(dtype: str) -> int:
    """How many elements a program works on at a time, of a call that computes in this dtype."""
    return SHORT_BLOCK if dtype in HALVES else BLOCK


def blocks_of(elements: int, block: int) -> int:
    """How many blocks there are; one of nothing too, which writes the mean."""
    return max(1, -(-elements // block))


class Numerics(NamedTuple):
    """What the programs are told of a call, besides its tensors."""

    double: bool
    block: int
    numbers: tuple[int | None, ...]  # the bits of ``programs.OPTIONS``
    kinds: tuple[Any, ...]  # what a program is compiled for


def numerics(call: Call) -> Numerics:
    # The divisor is no part of it: a normalizer may be another number at each step.
    return _numerics(call.dtype, call.terms or DEFAULTS, call.loss.probabilities, call.any_target, call.checks_targets)


@functools.lru_cache(maxsize=256)
def _numerics(dtype: str, terms: Terms, probabilities: bool, any_target: bool, checks: bool) -> Numerics:
    double, short, block = dtype == "float64", dtype in HALVES, block_of(dtype)
    smooths, ignored = terms.label_smoothing != 0, terms.ignore_index
    numbers = (
        None if ignored is None else bits(ignored, double),
        bits(1 - terms.label_smoothing, double) if smooths else None,
        bits(terms.label_smoothing / 2, double) if smooths else None,
        *_exponents(terms, double),
        None if terms.alpha is None else bits_of_parts(terms.alpha, double),
        bits_of_parts(terms.margin, double) if terms.margin != 0 else None,
    )
    arithmetic = tl.float64 if double else tl.float32
    ignores_nan = ignored is not None and ignored != ignored
    family = terms.focal if terms.is_family else None
    kinds = arithmetic, short, probabilities, any_target, ignores_nan, family, checks, block
    return Numerics(double, block, numbers, kinds)


def _exponents(terms: Terms, double: bool) -> tuple[int | None, int | None]:
    """The bits of the powers of positives and of negatives; of the first alone without the options of ``focal``."""
    negatives = terms.gamma if terms.gamma_negative is None else terms.gamma_negative
    one, other = (bits_of_parts(gamma, double) if gamma != 0 else None for gamma in (terms.gamma, negatives))
    return one, other if terms.is_family else None


def number_or_tensor(given: Any, double: bool) -> tuple[Tensor | None, int | None]:
    """The tensor, or the bits of the number, which are an argument of the launch: nothing is copied for them."""
    return (given, None) if isinstance(given, Tensor) else (None, bits(given, double))


def tensor(given: Any) -> Tensor | None:
    return given if isinstance(given, Tensor) else None


def _operands(operands: Operands) -> tuple[Any, ...]:
    """The operands in the order of the programs' parameters; the normalizer is handed over as the divisor."""
    input, target, weight, sample_weight, pos_weight, mask, smoothing, gamma, _, neg_weight = operands
    return input, target, weight, sample_weight, pos_weight, mask, neg_weight, smoothing, gamma


def _key(program: Any, call: Call, tensors: tuple[Any, ...], number: Any, divisor: Any) -> Any:
    """What a launch is found by again; None if it is not kept: one of sparse rows, with a normalizer, which may be
    another number at each step, or with a number that is 0, since −0 would be found by it too."""
    if (type(divisor) is float and divisor != 1) or isinstance(tensors[1], SparseRows):
        return None
    numbers = tuple(None if isinstance(one, Tensor) else one for one in (number, divisor))
    return None if 0 in numbers else repeated.key(program, call, numbers, tensors)


def _launch(
    program: Any, blocks: int, key: Any, tensors: tuple[Any, ...], arguments: Callable[[], tuple[Any, ...]]
) -> None:
    """Launches the program, whose first arguments are the tensors: as an earlier launch of that key, or with what
    ``arguments`` finds."""
    device, found = tensors[0].device, None if key is None else repeated.find(key)
    if found is not None:
        launch(program, blocks, device, *found.arguments(tensors), kernel=found.kernel)
        return
    given = arguments()
    kernel = launch(program, blocks, device, *given)
    if kernel is not None and key is not None:
        repeated.keep(key, kernel, given, len(tensors))


def sums(blocks: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The memory in which several programs leave their sums, and the counter; None for a single program."""
    if blocks == 1:
        return None, None
    return torch.empty(blocks, dtype=torch.float64, device=like.device), counter(like.device)


def reads(operands: Operands) -> bool:
    input = operands.input
    if not is_memory(input) or input.dtype not in FLOATING or not is_capable(input.device):
        return False
    target, *others = operands[1:]
    if isinstance(target, SparseRows):
        others += target[:3]
    else:
        others.append(target)
    return all(other is None or (is_memory(other) and other.device == input.device) for other in others)


def views(
    tensors: Sequence[Tensor | None], target: Tensor | SparseRows | None, shape: tuple[int, ...], block: int
) -> tuple[Any, list[View | None], tuple[int, ...], int]:
    """What the programs read the target by, and ``dense_views`` of the other tensors."""
    if not isinstance(target, SparseRows):
        (of_target, *read), sizes, wide = dense_views((target, *tensors), shape, block)
        return of_target, read, sizes, wide
    read, sizes, wide = dense_views(tensors, shape, block)
    if 0 in shape:  # nothing is read
        return View(target.offsets, ()), read, sizes, wide
    return Rows(*target[:3], shape[1], target.first), read, sizes, wide


def measure(call: Call, operands: Operands) -> Any:
    """A number if sizes give it; else a tensor without axes, of float64 for a sum of weights, or of int64."""
    input, divisor = operands.input, call.divisor
    if divisor == GIVEN:
        return operands.normalizer
    if divisor == SIZE:
        return input.numel()
    if divisor == ROWS:
        return input.shape[0]
    if divisor not in (KEPT, WEIGHTS):
        return divisor
    run, by_weights = numerics(call), divisor == WEIGHTS
    ignored, ignores_nan = run.numbers[0], run.kinds[4]
    target, read, sizes, wide = views(
        (
            operands.weight if by_weights else None,
            operands.sample_weight if by_weights else None,
            operands.mask,
        ),
        None if ignored is None else operands.target,
        input.shape,
        BLOCK,
    )
    measured = torch.empty((), dtype=torch.float64 if by_weights else torch.int64, device=input.device)
    blocks = blocks_of(input.numel(), BLOCK)
    launch(
        programs.measure, blocks, input.device, target, *read, measured, *sums(blocks, input), input.numel(), sizes,
        ignored, run.kinds[0], ignores_nan, BLOCK, wide,
    )  # fmt: skip
    return measured


def compute(
    call: Call,
    operands: Operands,
    outputs: Outputs,
    *,
    divisor: Any = None,
    incoming: Any = 1.0,
    executor: int = 0,
) -> int:
    """Writes the outputs; returns 0, because no flag can come back without waiting for the device.

    ``divisor`` and ``incoming`` may be tensors on the device; an executor is for the CPU. The incoming gradient is
    that of the loss, whatever its reduction.
    """
    input = operands.input
    divisor = measure(call, operands) if divisor is None else divisor
    blocks = blocks_of(input.numel(), block_of(call.dtype))
    own = sums(blocks, input) if outputs.total is not None else (None, None)
    tensors = (*_operands(operands), tensor(incoming), tensor(divisor), *outputs[:3], *own)
    key = _key(programs.loss, call, tensors, incoming, divisor)
    _launch(
        programs.loss, blocks, key, tensors,
        lambda: _loss_arguments(call, operands, outputs, divisor, incoming, own),
    )  # fmt: skip
    return 0


def _loss_arguments(
    call: Call, operands: Operands, outputs: Outputs, divisor: Any, incoming: Any, own: tuple[Any, Any]
) -> tuple[Any, ...]:
    """The arguments of ``programs.loss``; ``own`` is what ``sums`` gives."""
    input, run = operands.input, numerics(call)
    by, by_bits = number_or_tensor(divisor, True)
    coming, after = None, None
    if isinstance(incoming, Tensor):
        coming, factor = incoming, 0.0
    elif by is not None:
        factor = incoming
    else:
        factor, rest = split_factor(incoming / divisor if divisor else 0.0, run.double, call.loss.probabilities)
        after = bits(rest, run.double)
    tensors = (input, *operands[2:6], operands.neg_weight, coming, outputs.elements, outputs.gradient)
    target, read, sizes, wide = views(tensors, operands.target, input.shape, run.block)
    return (
        read[0], target, *read[1:6], operands.label_smoothing, operands.gamma, read[6], by, read[7], outputs.total,
        read[8], *own, input.numel(), sizes, bits(factor, run.double), after, by_bits, *run.numbers,
        *run.kinds, wide,
    )  # fmt: skip


def remake(
    call: Call,
    operands: Operands,
    gradient: Tensor,
    *,
    incoming: Tensor,
    made_for: Any = 1.0,
    divisor: Any = None,
) -> None:
    """Makes the gradient again, in place, where the incoming one is not what it was made for.

    For a loss of each element, the blocks in which it differs are made again. The comparison is done on the device. A
    divisor that was measured should be handed over, or it is measured again.
    """
    input = operands.input
    divisor = measure(call, operands) if divisor is None else divisor
    blocks = blocks_of(input.numel(), block_of(call.dtype))
    blocks = min(blocks, REMAKERS * multiprocessors(input.device))
    tensors = (*_operands(operands), incoming, tensor(divisor), tensor(made_for), gradient)
    key = _key(programs.remake, call, tensors, made_for, divisor)
    _launch(
        programs.remake, blocks, key, tensors,
        lambda: _remake_arguments(call, operands, gradient, incoming, made_for, divisor),
    )  # fmt: skip


def _remake_arguments(
    call: Call, operands: Operands, gradient: Tensor, incoming: Tensor, made_for: Any, divisor: Any
) -> tuple[Any, ...]:
    """The arguments of ``programs.remake``."""
    input, run = operands.input, numerics(call)
    by, by_bits = number_or_tensor(divisor, True)
    made, made_bits = number_or_tensor(made_for, run.double)
    tensors = (input, *operands[2:6], operands.neg_weight, incoming, gradient)
    target, read, sizes, wide = views(tensors, operands.target, input.shape, run.block)
    return (
        read[0], target, *read[1:6], operands.label_smoothing, operands.gamma, read[6], by, made, read[7],
        input.numel(), sizes, by_bits, made_bits, *run.numbers, *run.kinds, wide,
    )  # fmt: skip


def rescale(gradient: Tensor, *, incoming: Tensor, made_for: Any = 1.0) -> None:
    """Multiplies a gradient in dense memory, in place, by the incoming one over what it was made for.

    The comparison is done on the device. ``made_for`` is a number or a tensor, and neither 0 nor infinite.
    """
    double = gradient.dtype == torch.float64
    made, made_bits = number_or_tensor(made_for, double)
    blocks = min(blocks_of(gradient.numel(), BLOCK), REMAKERS * multiprocessors(gradient.device))
    arithmetic = tl.float64 if double else tl.float32
    launch(
        programs.rescale, blocks, gradient.device, gradient, incoming, made, gradient.numel(), made_bits, arithmetic,
        BLOCK,
    )  # fmt: skip
