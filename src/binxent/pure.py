"""Stands in for the native library where that was not built (``BINXENT_PURE=1``), by the definition on NumPy's arrays.

It has the names and parameters of ``_native``, and takes operands as ``kernels.native`` describes them. Each call makes
a dozen arrays of the operands' size, and takes many times as long as the kernel's. What has no definition, such as the
tables of a report, raises ``MissingKernelError``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from binxent import definition, formula
from binxent.call import Operands
from binxent.kernels import MissingKernelError, Outputs
from binxent.targets import SparseRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.arrays import Array
    from binxent.call import Call
    from binxent.definition import Values
    from binxent.numpy.arrays import Arrays

_NAMES = ("float64", "float32", "bfloat16", "float16", "bool", "uint8", "int8", "int16", "int32", "int64")
DTYPES = {name: tag for tag, name in enumerate(_NAMES)}
INPUT_OUT_OF_RANGE, TARGET_OUT_OF_RANGE, WRONG_TARGETS = 1, 2, 56  # those of native/core/job.h
LARGE_MEMORY = sys.maxsize  # NumPy makes every result
instruction_set = "none"
xla_handler = None

# Sizes of a report's tables, as native/core/chunk.h has them.
MAX_ROWS_IN_CELL, CELL_COUNT_SHIFT, PROBABILITY_BITS = (1 << 20) - 1, 44, 24
SCORE_PADDING, SCORE_PAGE_SHIFT, SCORE_WITHOUT_BIN = 16, 18, 4


def _missing(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise MissingKernelError(what)

    return refuse


compute = _missing("a direct call of the kernel")
count = loss_sums = _missing("a report")
new_tensor = _missing("a tensor in reused memory")
new_bytes = _missing("reused memory")
register_torch_operators = _missing("an operator of torch without Python")
paddle = SimpleNamespace(plain_elements=lambda input, label: -1, Hook=_missing("a hook of Paddle's graph"))


def release_memory() -> int:
    return 0


def runs() -> int:
    return 0


def num_threads() -> int:
    return 1


def set_num_threads(threads: int) -> None:
    pass


def set_default_num_threads(threads: int) -> None:
    pass


def _array(operand: Any) -> Array:
    """NumPy's view of an operand's memory."""
    if not isinstance(operand, tuple):  # a tensor
        return np.asarray(operand.astype("float32") if "bfloat16" in str(operand.dtype) else operand)
    address, tag, shape, strides = operand
    name = _NAMES[tag]
    kind = np.dtype("uint16" if name == "bfloat16" else name)
    if 0 in shape:
        array: Array = np.empty(shape, kind)
    else:
        memory = {
            "data": (address, False),
            "shape": tuple(shape),
            "typestr": kind.str,
            "strides": strides,
            "version": 3,
        }
        array = np.asarray(SimpleNamespace(__array_interface__=memory))
    if name == "bfloat16":
        import ml_dtypes

        array = array.view(ml_dtypes.bfloat16)
    return array


def _target(target: Any) -> Array:
    if not isinstance(target, SparseRows):
        return _array(target)
    from binxent import sparse

    values = None if target.values is None else _array(target.values)
    rows = target._replace(offsets=_array(target.offsets), indices=_array(target.indices), values=values)
    return sparse.dense(rows)


def _prepared(call: Call, operands: Operands) -> tuple[Arrays, Values, int]:
    """The adapter, the operands as the arithmetic sees them, and flags."""
    from binxent.numpy.arrays import Arrays  # not above: the face imports its kernel, which is this one

    xp = Arrays()
    arrays = [None if operand is None else _array(operand) for operand in operands[2:]]
    read = Operands(_array(operands[0]), _target(operands[1]), *arrays)
    values = definition.prepare(xp, call, read)
    outside = WRONG_TARGETS if call.checks_targets and definition.wrong_element(read, values.keep) else 0
    if call.loss.probabilities:
        given = Operands(_array(operands[0]), _target(operands[1]))
        keep = True if values.keep is None else values.keep
        x, y = (xp.widen(array, call.dtype) for array in given[:2])
        outside |= INPUT_OUT_OF_RANGE * bool(np.any(~formula.in_unit(x) & keep))
        outside |= TARGET_OUT_OF_RANGE * bool(np.any(~formula.in_unit(y) & keep) and not call.any_target)
    return xp, values, outside


def reads(operands: Operands) -> bool:
    return False


def measure_call(call: Call, operands: Operands, executor: int = 0) -> float:
    xp, values, _ = _prepared(call, operands)
    return float(definition.measured(xp, call, values))


def compute_call(
    call: Call,
    operands: Operands,
    outputs: Outputs | tuple[Any, Any, Any],
    divisor: float | None = None,
    incoming: Any = 1.0,
    executor: int = 0,
) -> int:
    with np.errstate(all="ignore"):
        return _compute(call, operands, Outputs(*outputs), divisor, incoming)


def _compute(call: Call, operands: Operands, outputs: Outputs, divisor: float | None, incoming: Any) -> int:
    xp, values, outside = _prepared(call, operands)

    def over(number: Any) -> Any:
        if divisor is None:
            return definition.divided(xp, call, values, number)
        return formula.divided(xp, number, np.float64(divisor))

    found: dict[str, Array] = {}
    if outputs.elements is not None or outputs.total is not None:
        each = definition.elements(xp, call, values)
        found.update(elements=each, total=over(xp.sum(each)))
    scale = over(np.float64(incoming) if isinstance(incoming, float) else _array(incoming).astype(np.float64))
    if outputs.gradient is not None:
        slope = formula.only(xp, values.keep, definition.slope(xp, call, values, "input"))
        dtype = _array(outputs.gradient).dtype.name
        found["gradient"] = definition.saturated(xp, call, slope * scale, dtype)
    for name in ("hessian", "expected_hessian"):
        if getattr(outputs, name) is not None:
            curve = definition.curvature(xp, call, values, expects=name == "expected_hessian")
            found[name] = curve * scale
    # Written at the end, since the gradient may have the input's memory.
    for name, operand in outputs._asdict().items():
        if operand is not None:
            place = _array(operand)
            place[...] = xp.cast(found[name], place.dtype.name)
    return outside


_BAD_OFFSETS, _BAD_LABEL, _TWICE = 1, 2, 3  # ``Fault`` of native/core/sparse.h


def read_labels(
    offsets: Any,
    labels: Any,
    width: int,
    num_labels: int,
    padding: int | None,
    is_set: bool,
    outputs: tuple[Any, ...] | None = None,
) -> tuple[int, int, int, bool]:
    """The first fault, the row and the label where it is, and whether the labels are sorted, without doubles.

    With outputs, which are for labels without such a fault, it writes them sorted.
    """
    label = _array(labels).reshape(-1)
    if offsets is None:
        bounds = np.arange(0, label.size + 1, width)
    else:
        bounds = _array(offsets)
    rows = len(bounds) - 1
    if outputs is None:
        if bounds[0] != 0:
            return _BAD_OFFSETS, 0, int(bounds[0]), True
        wrong = np.flatnonzero((np.diff(bounds) < 0) | (bounds[1:] > label.size))
        sound = int(wrong[0]) if wrong.size else rows  # rows before it have places of their own
    else:
        sound = rows
    row = np.repeat(np.arange(sound), np.diff(bounds[: sound + 1]))
    label = label[: bounds[sound]]
    place = np.flatnonzero(label != padding) if padding is not None else np.arange(label.size)
    row, label = row[place], label[place]
    if outputs is None:
        follows = np.append(False, row[1:] == row[:-1])[: row.size]
        before = np.where(follows, np.roll(label, 1), -1)
        beyond = (label < 0) | (label >= num_labels)
        twice = follows & (label == before) & (not is_set)
        faults = np.flatnonzero(beyond | twice)
        if faults.size:
            first = faults[0]
            return _BAD_LABEL if beyond[first] else _TWICE, int(row[first]), int(label[first]), True
        if sound < rows:
            return _BAD_OFFSETS, sound, int(bounds[sound + 1]), True
        if bounds[rows] != _array(labels).size:
            return _BAD_OFFSETS, rows, int(bounds[rows]), True
        return 0, 0, 0, bool(place.size == bounds[rows] and np.all(label > before))
    order = np.lexsort((label, row))
    place, row, label = place[order], row[order], label[order]
    doubled = np.append(False, (row[1:] == row[:-1]) & (label[1:] == label[:-1]))[: row.size]
    if doubled.any() and not is_set:
        first = np.argmax(doubled)
        return _TWICE, int(row[first]), int(label[first]), True
    place, row, label = place[~doubled], row[~doubled], label[~doubled]
    to_bounds, to_labels, to_places = (None if output is None else _array(output) for output in outputs)
    assert to_bounds is not None and to_labels is not None  # noqa: PT018
    to_bounds[0], to_bounds[1:] = 0, np.cumsum(np.bincount(row, minlength=rows))
    to_labels[: label.size] = label
    if to_places is not None:
        to_places[: place.size] = place
    return 0, 0, 0, True
