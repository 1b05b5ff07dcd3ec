"""Calls the kernel on NumPy's memory: checks the operands, allocates the results, refuses what is out of range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import definition, kernel, options, sparse
from binxent.call import FLOATING, Operands, known_plan, normalized
from binxent.kernels import Outputs, native
from binxent.numpy.arrays import Arrays
from binxent.targets import IndexTargets, SparseRows

if TYPE_CHECKING:
    from binxent.call import Call
    from binxent.formula import Loss

Array = np.ndarray[Any, np.dtype[Any]]

# input, target, weight, sample_weight, pos_weight, mask
Given = tuple[object, object, object, object, object, object]
_OPTIONAL = Operands._fields[2:6]
# ignore_index, label_smoothing, gamma
Numbers = tuple[object, object, object]


def checked(name: str, value: object, *, floating: bool = False) -> Array:
    """An array that the kernel can read: of a dtype that it knows, in native byte order."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}; wrap it in numpy.asarray(…)")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; pass its .filled(…) or .data")
    value = np.asarray(value)  # a subclass may report a shape, strides or dtype that its memory does not have
    known = FLOATING if floating else tuple(native.TAGS)
    if value.dtype.name not in known:
        raise TypeError(f"{name}: dtype {value.dtype} is not supported; expected one of {', '.join(known)}")
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    return value


def described(array: Array | SparseRows) -> native.Operand:
    if isinstance(array, SparseRows):
        return sparse.described(array)
    return array.ctypes.data, native.TAGS[array.dtype.name], array.shape, array.strides


def target_operand(value: object, x: Array, ignore_index: object) -> tuple[Array | SparseRows, str, tuple[int, ...]]:
    """The target as an operand, its dtype and its shape."""
    if not isinstance(value, IndexTargets) and not sparse.is_scipy(value):
        array = checked("target", value)
        return array, array.dtype.name, array.shape
    rows = sparse.rows(value, x.shape, ignore_index)
    if rows.values is None:
        return rows, "bool", rows.shape
    values = checked("target", rows.values)
    return rows._replace(values=values), values.dtype.name, rows.shape


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if size < kernel.LARGE_MEMORY:
        return np.empty(shape, dtype)
    array: Array = kernel.new_bytes(size).view(dtype).reshape(shape)
    return array


_TOO_HARD: type[Exception] = getattr(np, "exceptions", np).TooHardError
_MOST_WORK = 100_000  # steps of the search, some milliseconds; two views that need more count as overlapping


def share_memory(one: Array, other: Array) -> bool:
    """Whether a byte belongs to both."""
    try:
        return np.shares_memory(one, other, max_work=_MOST_WORK)  # type: ignore[arg-type]  # the stub knows two numbers
    except _TOO_HARD:
        return True


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements share memory."""
    reach = array.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if step < reach:
                break
            reach += step * (size - 1)
    else:
        return False  # each step is longer than all shorter ones reach: true of every view but as_strided's
    for axis, size in enumerate(array.shape):
        # Two elements that first differ along this axis are as far apart as some two of which each half has one.
        before, half = (slice(1),) * axis, size // 2
        if share_memory(array[(*before, slice(half))], array[(*before, slice(half, None))]):
            return True
    return False


def _lies_like(one: Array, other: Array) -> bool:
    """Whether both arrays have each element at the same address."""
    return one.ctypes.data == other.ctypes.data and all(
        step == there or size == 1 for step, there, size in zip(one.strides, other.strides, one.shape, strict=True)
    )


def check_out(out: object, operands: Operands) -> Array:
    """The array for the gradient. It overlaps no operand, or is exactly the input's memory."""
    x = operands.input
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    place = np.asarray(out)
    if place.shape != x.shape or place.dtype != x.dtype:
        raise ValueError(
            f"out: {place.dtype} of shape {place.shape}; expected {x.dtype} of shape {x.shape}, as the input"
        )
    if not place.flags.writeable:
        raise ValueError("out: the array is read-only; expected one that can be written")
    if _overlaps_itself(place):
        raise ValueError("out: elements of it share memory; expected memory of its own for each")
    y = operands.target
    others = (*(y[:3] if isinstance(y, SparseRows) else (y,)), *operands[2:])
    if not _lies_like(place, x):
        others = (x, *others)
    if any(other is not None and share_memory(place, other) for other in others):
        raise ValueError("out: overlaps an operand; expected memory of its own, or exactly the input for in place")
    return place


def known_normalizer(given: object, reduction: str) -> float | None:
    """The number that it is. An array's value is at hand, and is checked like a number."""
    number = options.checked_normalizer(given, reduction)
    if number is None:
        number = options.checked_normalizer(checked("normalizer", given).item(), reduction)
    return number


def _refuse_out_of_range(outside: int, operands: Operands, terms: options.Terms | None) -> None:
    name = "input" if outside & native.INPUT_OUT_OF_RANGE else "target"
    if isinstance(operands.target, SparseRows):
        operands = operands._replace(target=sparse.dense(operands.target))
    keep = definition.kept(Arrays(), operands.target, operands.mask, terms and terms.ignore_index)
    with np.errstate(invalid="ignore"):  # NumPy warns where a bfloat16 that is NaN is compared
        raise ValueError(definition.refusal_of_probability(name, getattr(operands, name), keep))


def planned(
    loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: object = None
) -> tuple[Call, Operands, float | None]:
    """The call, its arrays, and the divisor: None is the call's own."""
    options.check_reduction(reduction)
    x = checked("input", given[0], floating=True)
    y, target_dtype, target_shape = target_operand(given[1], x, numbers[0])
    rest = [None if a is None else checked(name, a) for name, a in zip(_OPTIONAL, given[2:], strict=True)]
    shapes = [None if a is None else a.shape for a in rest]
    wanted = (loss, reduction, (x.dtype.name, target_dtype), x.shape, target_shape, *shapes, *numbers)
    call = known_plan(*wanted)
    operands = Operands(x, y, *rest)
    divisor = None  # the call's own
    if normalizer is not None:
        divisor = known_normalizer(normalizer, reduction)
        call = normalized(call, divisor)
    if operands.sample_weight is not None:
        column = operands.sample_weight.reshape((-1,) + (1,) * (x.ndim - 1))
        operands = operands._replace(sample_weight=column)
    return call, operands, divisor


def new_value(call: Call, x: Array) -> Array:
    """An array for the loss: of x's shape where there is no reduction."""
    dtype = x.dtype if call.dtype == x.dtype.name else np.dtype(call.dtype)
    return new_array(x.shape if call.reduction == "none" else (), dtype)


def described_all(operands: Operands) -> Operands:
    return Operands(*[None if array is None else described(array) for array in operands])


def compute(
    loss: Loss,
    reduction: str,
    given: Given,
    numbers: Numbers,
    normalizer: object = None,
    *,
    want_gradient: bool = False,
    out: object = None,
) -> tuple[Any, Any]:
    """The loss, and the gradient if that is wanted."""
    call, operands, divisor = planned(loss, reduction, given, numbers, normalizer)
    x = operands.input
    gradient = None
    if out is not None:
        gradient = check_out(out, operands)
    elif want_gradient:
        gradient = new_array(x.shape, x.dtype)
    by_element = reduction == "none"
    value = new_value(call, x)
    read = described_all(operands)

    def run(value: Array | None, gradient: Array | None) -> None:
        result = None if value is None else described(value)
        elements, total = (result, None) if by_element else (None, result)
        slope = None if gradient is None else described(gradient)
        outside = native.compute(call, read, Outputs(elements, total, slope), divisor)
        if outside:
            _refuse_out_of_range(outside, operands, call.terms)

    if out is not None and loss.probabilities:
        # Two passes: a probability out of range must be found before the caller's array is written.
        run(value, None)
        run(None, gradient)
    else:
        run(value, gradient)
    return value[()], gradient if out is None else out
