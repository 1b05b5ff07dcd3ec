"""Calls the kernel on NumPy's memory: checks the operands, allocates the results, refuses what is out of range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from binxent import definition, kernel, options, sparse
from binxent.call import FLOATING, Operands, averaged_axes, known_plan, normalized
from binxent.kernels import Outputs, native
from binxent.numpy.arrays import Arrays
from binxent.targets import IndexTargets, SparseRows

if TYPE_CHECKING:
    from binxent.call import Call
    from binxent.formula import Loss

Array = np.ndarray[Any, np.dtype[Any]]

# input, target, weight, sample_weight, pos_weight, mask, neg_weight
Given = tuple[object, object, object, object, object, object, object]
_OPTIONAL = (*Operands._fields[2:6], "neg_weight")


class Numbers(NamedTuple):
    """The options that are no arrays."""

    ignore_index: object = None
    label_smoothing: object = 0.0
    gamma: object = 0.0
    focal: options.Focal = options.NO_FOCAL
    check_targets: bool = False


def checked(name: str, value: object, *, floating: bool = False) -> Array:
    """An array that the kernel can read: of a dtype that it knows, in native byte order."""
    if not isinstance(value, (np.ndarray, np.generic)):
        hint = options.to_dense(value) or "; wrap it in numpy.asarray(…)"
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}{hint}")
    if isinstance(value, np.ma.MaskedArray):
        hint = "pass its .filled(…), or its .data and mask=~numpy.ma.getmaskarray(…)"
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; {hint}")
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


def is_sparse(target: object) -> bool:
    return isinstance(target, IndexTargets) or sparse.is_scipy(target)


def target_operand(value: object, x: Array, ignore_index: object) -> tuple[Array | SparseRows, str, tuple[int, ...]]:
    """The target as an operand, its dtype and its shape."""
    if not is_sparse(value):
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


def refuse_out_of_range(outside: int, call: Call, operands: Operands) -> None:
    if isinstance(operands.target, SparseRows):
        operands = operands._replace(target=sparse.dense(operands.target))
    keep = definition.kept(Arrays(), operands.target, operands.mask, call.terms and call.terms.ignore_index)
    with np.errstate(invalid="ignore"):  # NumPy warns where a bfloat16 that is NaN is compared
        if call.checks_targets and (wrong := definition.wrong_element(operands, keep)):
            raise ValueError(wrong)
        name = "input" if outside & native.INPUT_OUT_OF_RANGE else "target"
        raise ValueError(definition.refusal_of_probability(name, getattr(operands, name), keep))


def planned(
    loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: object = None
) -> tuple[Call, Operands, float | None]:
    """The call, its arrays, and the divisor: None is the call's own."""
    options.check_reduction(reduction)
    x = checked("input", given[0], floating=True)
    y, target_dtype, target_shape = target_operand(given[1], x, numbers.ignore_index)
    rest = [None if a is None else checked(name, a) for name, a in zip(_OPTIONAL, given[2:], strict=True)]
    *shapes, neg_weight = (None if a is None else a.shape for a in rest)
    ignore_index, label_smoothing, gamma, *beyond = numbers
    wanted = (loss, reduction, (x.dtype.name, target_dtype), x.shape, target_shape, *shapes)
    call = known_plan(*wanted, ignore_index, label_smoothing, gamma, neg_weight, *beyond)
    operands = Operands(x, y, *rest[:-1])._replace(neg_weight=rest[-1])
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
    incoming: Any = 1.0,
) -> tuple[Any, Any]:
    """The loss, and the gradient if that is wanted."""
    if options.check_reduction(reduction) in options.BY_AXIS:
        return _by_axis(loss, reduction, given, numbers, normalizer, want_gradient=want_gradient, out=out)
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
        outside = native.compute(
            call, read, Outputs(elements, total, slope), divisor, 1.0 if slope is None else incoming
        )
        if outside:
            refuse_out_of_range(outside, call, operands)

    if out is not None and (loss.probabilities or call.checks_targets):
        # Two passes: what is refused must be found before the caller's array is written.
        run(value, None)
        run(None, gradient)
    elif not isinstance(incoming, float):  # a loss is not multiplied by what comes in for its gradient
        run(value, None)
        run(None, gradient)
    else:
        run(value, gradient)
    return value[()], gradient if out is None else out


def _by_axis(
    loss: Loss, reduction: str, given: Given, numbers: Numbers, normalizer: object, **wanted: Any
) -> tuple[Any, Any]:
    """The means over all axes but one. Each divides by the elements that it keeps, so the gradient does, too."""
    if normalizer is not None:
        options.check_normalizer(reduction)
    call, operands, _ = planned(loss, "none", given, numbers)
    x, target = operands.input, operands.target
    axes = averaged_axes(reduction, x.ndim)
    y = sparse.dense(target) if isinstance(target, SparseRows) else target
    keep = definition.kept(Arrays(), y, operands.mask, call.terms and call.terms.ignore_index)
    kept = np.ones((), bool) if keep is None else keep
    counts = np.broadcast_to(kept, x.shape).sum(axis=axes, keepdims=True, dtype=np.float64)
    share = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts != 0)
    each, gradient = compute(loss, "none", given, numbers, incoming=described(share), **wanted)
    means = np.asarray(each).sum(axis=axes, dtype=np.float64) * share.squeeze(axes)
    return means.astype(call.dtype)[()], gradient
