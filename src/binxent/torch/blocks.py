"""The definition in blocks, on devices that no kernel reaches: what ``eager`` asks of a kernel, in torch's operations.

Each operation of the definition makes a tensor. Of a block they stay in a cache, and all of them together take less
memory than the gradient, which is made together with the loss.

What 0 · ±inf would spoil is told from the sum, which is then NaN: so no product looks for infinities, unless there are
some. On the processor alone, since elsewhere a look at the sum would wait for the device.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binxent import definition, formula
from binxent.call import GIVEN, KEPT, WEIGHTS, Call, Operands
from binxent.targets import SparseRows
from binxent.torch import arrays
from binxent.torch.arrays import DTYPE, NAME, Arrays
from binxent.torch.operands import NAMES, lies_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Made = Tensor  # the gradient for an incoming gradient of 1, in the arithmetic's type
Part = tuple[slice, ...]


class _BlockArrays(Arrays):
    chooses = False
    sign = staticmethod(torch.sign)
    exp_ = staticmethod(torch.exp_)
    log1p_in_unit = staticmethod(torch.log1p)

    def clip_(self, array: Tensor, low: float, high: float) -> Tensor:
        return array.clamp_(low, high)

    def add_product_(self, total: Tensor, one: Tensor, other: Tensor, sign: float = 1) -> Tensor:
        return total.addcmul_(one, other, value=sign)

    def probability(self, call: Call, x: Tensor, y: Tensor) -> Tensor:
        """What is out of range has been refused for the whole tensor, or will be NaN."""
        result: Tensor = definition.nan_outside(self, call, x, y)
        return result

    def checked(self, call: Call, x: Tensor, y: Tensor, operands: Operands, keep: Tensor | None) -> Tensor:
        """What is wrong has been refused for the whole tensor."""
        return x


ARRAYS = _BlockArrays()

# Elements of a block: on the processor few enough for its caches, elsewhere so many that a launch hardly counts. Half
# as many took up to 1.2 times the time, because the operations then wait for torch's threads twice as often.
_BLOCK, _BLOCK_ELSEWHERE = 2**17, 2**22


def reads(given: Sequence[Any]) -> bool:
    """Whether these operands have numbers in memory, so that nobody has to see the operations on them."""
    input = given[0]
    if input is None:
        return False
    return all(operand is None or lies_on(input.device, operand) for operand in arrays.tensors(given))


def reads_option(option: Tensor, input: Tensor, compiling: bool) -> bool:
    return lies_on(input.device, option)


def is_readable_gradient(call: Call, incoming: Tensor) -> bool:
    return incoming.layout is torch.strided


def _parts(shape: Sequence[int], most: int) -> Iterator[Part]:
    """Slices of an array of this shape, that have so many elements at most, in their order."""
    row = math.prod(shape[1:])
    if not shape or shape[0] * row <= most:
        yield ()
    elif row > most:
        for first in range(shape[0]):
            for part in _parts(shape[1:], most):
                yield (slice(first, first + 1), *part)
    else:
        for first in range(0, shape[0], most // row):
            yield (slice(first, first + most // row),)


def _of(operand: Tensor | None, part: Part, dim: int) -> Tensor | None:
    """The operand's elements that meet this part of an array of so many axes."""
    if operand is None or not operand.dim():
        return operand
    own = part[dim - operand.dim() :]
    return operand[tuple(slice(None) if operand.shape[axis] == 1 else own[axis] for axis in range(len(own)))]


def _dense_part(rows: SparseRows, part: Part) -> Tensor:
    """The part of a sparse target, with all its elements."""
    for axis, taken in enumerate(part):
        start, stop, _ = taken.indices(rows.shape[axis])
        rows = rows.window(start, stop) if axis else rows.part(start, stop)
    return arrays.dense(rows)


def _blocks(operands: Operands) -> Iterator[tuple[Part, Operands]]:
    input = operands.input
    most = _BLOCK if input.is_cpu else _BLOCK_ELSEWHERE
    for part in _parts(input.shape, most):
        read = {name: _of(getattr(operands, name), part, input.dim()) for name in NAMES if name != "target"}
        target = operands.target
        read["target"] = _dense_part(target, part) if isinstance(target, SparseRows) else _of(target, part, input.dim())
        yield part, operands._replace(**read)


def _check(call: Call, operands: Operands) -> None:
    """Refuses what the CPU's kernel refuses; elsewhere that would wait for the device, and is NaN."""
    if operands.input.is_cpu:
        arrays.check_options(call, operands)
        arrays.check_range(call, operands)


def measure(call: Call, operands: Operands) -> Tensor:
    """What the divisor counts."""
    ignored = call.terms and call.terms.ignore_index
    counts = []
    for _, block in _blocks(operands):
        keep = definition.kept(ARRAYS, ARRAYS.widen(block.target, call.dtype), block.mask, ignored)
        weights = (definition.seen(ARRAYS, call, keep, weight) for weight in (block.weight, block.sample_weight))
        counts.append(definition.measure(ARRAYS, call, block.input, definition.product(*weights), keep))
    return torch.stack(counts).sum()


def _measured(call: Call, operands: Operands) -> tuple[Call, Operands]:
    """The call with a divisor that does not depend on the block."""
    if call.divisor not in (KEPT, WEIGHTS):
        return call, operands
    return call._replace(divisor=GIVEN), operands._replace(normalizer=measure(call, operands))


def _arithmetic(call: Call) -> torch.dtype:
    return torch.float64 if call.dtype == "float64" else torch.float32


def _divided(call: Call, operands: Operands, total: Tensor) -> Tensor:
    """The total divided by the call's divisor, which is no longer to be measured."""
    result: Tensor = definition.divide(ARRAYS, call, total, operands.input, None, None, operands.normalizer)
    return result


def _write(call: Call, keep: Tensor | None, slope: Tensor, factor: Tensor, gradient: Tensor) -> None:
    """Write a block's gradient: the slope times one factor, or one for each element."""
    if factor.dim() and keep is not None:  # it may be NaN where an element is ignored
        factor = formula.only(ARRAYS, keep, factor)
    if gradient.dtype == slope.dtype:
        torch.mul(slope, factor, out=gradient)
    else:
        gradient.copy_(definition.saturated(ARRAYS, call, slope.mul_(factor), NAME[gradient.dtype]))


def _run(
    call: Call,
    operands: Operands,
    elements: Tensor | None = None,
    gradient: Tensor | None = None,
    incoming: Tensor | None = None,
    finite: bool = True,
    expected: float = 1.0,
) -> Tensor | None:
    """Write the losses of the elements, and the gradient; return the mean unless ``elements`` are asked for.

    Without an incoming gradient, the gradient is made for the expected one. ``finite`` says that infinities need not be
    thought of, because the call can be computed again: not so where the gradient takes the place of the logits.
    """
    finite = finite and operands.input.is_cpu
    with_loss, sums = incoming is None, []
    with torch.no_grad():
        call, operands = _measured(call, operands)
        coming = operands.input.new_full((), expected, dtype=_arithmetic(call)) if incoming is None else incoming
        factor = _divided(call, operands, ARRAYS.widen(coming, call.dtype))
        for part, block in _blocks(operands):
            values = definition.prepare(ARRAYS, call, block)
            each: Any  # None unless they are wanted
            slope: Any
            each, slope = definition.loss_and_gradient(
                ARRAYS, call, values, loss=with_loss, gradient=gradient is not None, finite=finite
            )
            if elements is not None:
                elements[part] = each
            if with_loss:
                sums.append(ARRAYS.sum(each))
            if gradient is not None:
                by = factor if incoming is None else factor[part if factor.dim() else ()]
                _write(call, values.keep, slope, by, gradient[part])
        if incoming is not None:
            return None
        total = torch.stack(sums).sum()
        if finite and bool(total.isnan()):
            return _run(call, operands, elements, gradient, finite=False)
        if elements is not None:
            return None
        mean: Tensor = ARRAYS.cast(_divided(call, operands, total), call.dtype)
    return mean


def loss_alone(call: Call, operands: Operands) -> Tensor:
    _check(call, operands)
    if call.reduction != "none":
        mean: Any = _run(call, operands)
        result: Tensor = mean
        return result
    elements = torch.empty_like(arrays.like_elements(call, operands), dtype=DTYPE[call.dtype])
    _run(call, operands, elements)
    return elements


def loss_and_gradient(call: Call, operands: Operands) -> tuple[Tensor, Made]:
    _check(call, operands)
    gradient = torch.empty_like(operands.input, dtype=_arithmetic(call))
    mean: Any = _run(call, operands, gradient=gradient)
    return mean, gradient


def input_gradient(call: Call, operands: Operands, incoming: Tensor, made: Made | None) -> Tensor:
    input = operands.input
    if made is not None:
        # The look at the incoming gradient saves a pass; elsewhere it would wait for the device.
        if not input.is_cpu or incoming.item() != 1:
            made.mul_(incoming)
        found: Tensor = definition.saturated(ARRAYS, call, made, NAME[input.dtype])
        return found
    gradient = torch.empty_like(input)
    _run(call, operands, gradient=gradient, incoming=incoming)
    return gradient


def gradient_in_place(call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    gradient: Tensor = operands.input.detach()
    _run(call, operands, gradient=gradient, incoming=incoming)
    return gradient


def loss_of_chunk(call: Call, operands: Operands, total: Tensor | None, with_gradient: bool, incoming: float) -> None:
    """The sum of the losses of a linear head's chunk, and the gradient in the place of its logits."""
    gradient = operands.input.detach() if with_gradient else None
    mean: Any = _run(call, operands, gradient=gradient, finite=not with_gradient, expected=incoming)
    if total is not None:
        total.copy_(mean)


def incoming_of_head(like: Tensor, dtype: torch.dtype, first: float) -> float:
    return first


def rescale(like: Tensor, dtype: torch.dtype, gradients: Sequence[Tensor], incoming: Tensor, made_for: float) -> None:
    for gradient in gradients:
        gradient *= incoming / made_for
