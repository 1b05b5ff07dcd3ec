"""The kernel on NumPy's memory: what an operand may be, where results lie, and the call itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import definition, kernel, options
from binxent.call import FLOATING, Operands, known_plan, plan
from binxent.kernels import Outputs, native
from binxent.numpy.arrays import Arrays

if TYPE_CHECKING:
    from binxent.formula import Loss

Array = np.ndarray[Any, np.dtype[Any]]

# input, target, weight, sample_weight, pos_weight, mask
Given = tuple[object, object, object, object, object, object]
_OPTIONAL = Operands._fields[2:6]
# ignore_index, label_smoothing, gamma
Numbers = tuple[object, object, object]


def checked(name: str, value: object, *, floating: bool = False) -> Array:
    """An array that the kernel can read: of a dtype that it knows, in native byte order."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}; wrap it in numpy.asarray(…)")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; pass its .filled(…) or .data")
    known = FLOATING if floating else tuple(native.TAGS)
    if value.dtype.name not in known:
        raise TypeError(f"{name}: dtype {value.dtype} is not supported; expected one of {', '.join(known)}")
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    return value


def _described(array: Array) -> native.Operand:
    return array.ctypes.data, native.TAGS[array.dtype.name], array.shape, array.strides


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if size < kernel.LARGE_MEMORY:
        return np.empty(shape, dtype)
    array: Array = kernel.new_bytes(size).view(dtype).reshape(shape)
    return array


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory. Along each axis a step leads beyond all that shorter steps reach: so it is
    in every view but those of as_strided and broadcast_to."""
    reach = array.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if step < reach:
                return array.size > 0
            reach += step * (size - 1)
    return False


def _check_out(out: object, operands: Operands) -> Array:
    """The gradient's place: new to the operands, or exactly the input's own."""
    x = operands.input
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    if out.shape != x.shape or out.dtype != x.dtype:
        raise ValueError(f"out: {out.dtype} of shape {out.shape}; expected {x.dtype} of shape {x.shape}, as the input")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only; expected one that can be written")
    if _overlaps_itself(out):
        raise ValueError("out: elements of it share memory; expected memory of its own for each")
    same = out.ctypes.data == x.ctypes.data and out.strides == x.strides
    others = operands[1:] if same else operands
    if any(other is not None and np.may_share_memory(out, other) for other in others):
        raise ValueError("out: overlaps an operand; expected memory of its own, or exactly the input for in place")
    return out


def _refuse_out_of_range(outside: int, operands: Operands, terms: options.Terms | None) -> None:
    name = "input" if outside & native.INPUT_OUT_OF_RANGE else "target"
    keep = definition.kept(Arrays(), operands.target, operands.mask, terms and terms.ignore_index)
    raise ValueError(definition.refusal_of_probability(name, getattr(operands, name), keep))


def compute(
    loss: Loss,
    reduction: str,
    given: Given,
    numbers: Numbers,
    *,
    want_gradient: bool = False,
    out: object = None,
) -> tuple[Any, Any]:
    """The loss, and the gradient if that is wanted."""
    options.check_reduction(reduction)
    x, y = checked("input", given[0], floating=True), checked("target", given[1])
    rest = [None if a is None else checked(name, a) for name, a in zip(_OPTIONAL, given[2:], strict=True)]
    shapes = [None if a is None else a.shape for a in rest]
    wanted: Any = (loss, reduction, (x.dtype.name, y.dtype.name), x.shape, y.shape, *shapes, *numbers)
    try:
        call = known_plan(*wanted)
    except TypeError:  # an option that is an array has no hash
        call = plan(*wanted)
    operands = Operands(x, y, *rest)
    if operands.sample_weight is not None:
        column = operands.sample_weight.reshape((-1,) + (1,) * (x.ndim - 1))
        operands = operands._replace(sample_weight=column)

    gradient = None
    if out is not None:
        gradient = _check_out(out, operands)
    elif want_gradient:
        gradient = _new(x.shape, x.dtype)
    by_element = reduction == "none"
    dtype = x.dtype if call.dtype == x.dtype.name else np.dtype(call.dtype)
    value = _new(x.shape if by_element else (), dtype)
    described = Operands(*[None if a is None else _described(a) for a in operands])

    def run(value: Array | None, gradient: Array | None) -> None:
        result = None if value is None else _described(value)
        elements, total = (result, None) if by_element else (None, result)
        slope = None if gradient is None else _described(gradient)
        outside = native.compute(call, described, Outputs(elements, total, slope))
        if outside:
            _refuse_out_of_range(outside, operands, call.terms)

    if out is not None and loss.probabilities:
        # A probability out of range is found before the caller's array is written.
        run(value, None)
        run(None, gradient)
    else:
        run(value, gradient)
    return value[()], gradient
