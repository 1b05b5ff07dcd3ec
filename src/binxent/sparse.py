"""Makes ``SparseRows`` of a sparse target, in NumPy's arrays: each label is looked at once, and sorted if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binxent.kernels import native
from binxent.options import RefusalError
from binxent.targets import IndexTargets, SparseRows

if TYPE_CHECKING:
    from binxent.arrays import Array

    Shape = tuple[int, ...]

_BAD_OFFSETS, _BAD_LABEL, _TWICE = 1, 2, 3  # ``Fault`` of native/core/sparse.h


def is_scipy(target: object) -> bool:
    """Whether it is one of SciPy's sparse matrices or arrays, which are known by their attributes."""
    return hasattr(target, "tocsr") and hasattr(target, "nnz")


def check(target: Any, shape: Shape, ignore_index: object) -> None:
    """Refuses targets that do not fit an input of that shape, as far as this is seen without looking at a label."""
    if len(shape) != 2:
        raise RefusalError("target", f"a sparse target, but the input's shape is {tuple(shape)}; expected [N, C]")
    if not isinstance(target, IndexTargets):
        if is_scipy(target) and target.format != "csr":
            kind = f"a sparse {type(target).__name__} of the format {target.format!r}"
            raise RefusalError("target", f"{kind}; expected CSR: pass its .tocsr()")
        if tuple(target.shape) != tuple(shape):
            raise RefusalError("target", f"shape {tuple(target.shape)} must be the same as the input's, {tuple(shape)}")
        return
    if ignore_index is not None:
        raise RefusalError("ignore_index", f"{ignore_index!r}, but the target is IndexTargets; it has padding= instead")
    if target.num_labels is not None and target.num_labels != shape[1]:
        raise RefusalError("target", f"num_labels={target.num_labels}, but the input's shape is {tuple(shape)}")
    rows = (target.indices if target.offsets is None else target.offsets).shape[0]
    if rows == shape[0] or (target.offsets is not None and rows == shape[0] + 1):
        return
    given = f"{rows} rows" if target.offsets is None else f"{rows} offsets"
    raise RefusalError("target", f"{given}, but the input's shape is {tuple(shape)}; expected {shape[0]}")


def shape_to_count(target: Any, ignore_index: object) -> Shape:
    """The shape of a sparse target that is counted by itself. A list of labels does not always tell it."""
    if not isinstance(target, IndexTargets):
        shape: Shape = tuple(target.shape)
    elif target.num_labels is None:
        missing = "IndexTargets without num_labels do not tell how many labels are absent"
        raise RefusalError("target", f"{missing}; pass num_labels=, or the logits in the target's place")
    elif target.offsets is not None:
        missing = "IndexTargets with offsets do not tell whether the last of them begins a row"
        raise RefusalError("target", f"{missing}; pass the logits in the target's place")
    else:
        shape = (target.indices.shape[0], target.num_labels)
    check(target, shape, ignore_index)
    return shape


def rows(target: Any, shape: Shape, ignore_index: object = None) -> SparseRows:
    """The rows of ``IndexTargets``, or of a matrix of SciPy, that fit an input of that shape."""
    check(target, shape, ignore_index)
    if not isinstance(target, IndexTargets):
        found, places = of_csr(np.asarray(target.indptr), np.asarray(target.indices), shape)
        values = np.asarray(target.data)
        return found._replace(values=np.ascontiguousarray(values if places is None else values[places]))
    indices, offsets = on_processor("indices", target.indices), None
    if target.offsets is not None:
        offsets = on_processor("offsets", target.offsets).astype(np.int64, copy=False)
        if len(offsets) == shape[0]:
            offsets = np.append(offsets, np.int64(len(indices)))
    return of_indices(indices, offsets, target.padding, shape)


def on_processor(name: str, array: Any) -> Array:
    """NumPy's view of the array."""
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError, ValueError) as refusal:
        raise RefusalError("target", f"{name} cannot be read by the processor ({refusal})") from refusal


def of_indices(indices: Array, offsets: Array | None, padding: int | None, shape: Shape) -> SparseRows:
    """The rows of indices that are a set each: [N, K], or between offsets."""
    indices = _packed(indices)
    width = 0 if offsets is not None else indices.shape[1]
    if offsets is None and width == 0:
        return SparseRows(np.zeros(shape[0] + 1, np.int64), indices.reshape(-1), None, (shape[0], shape[1]))
    bounds = np.arange(0, indices.size + 1, width, dtype=np.int64) if offsets is None else _packed(offsets)
    found, _ = _sorted(bounds, indices.reshape(-1), padding, shape, is_set=True)
    return found


def of_csr(offsets: Array, indices: Array, shape: Shape) -> tuple[SparseRows, Array | None]:
    """The rows of a matrix in CSR format, without values, and which of the values each needs; None for all in order."""
    bounds, indices = _packed(offsets.astype(np.int64, copy=False)), _packed(indices)
    if len(bounds) != shape[0] + 1:
        raise RefusalError("target", f"{len(bounds)} offsets for {shape[0]} rows; expected one more than rows")
    return _sorted(bounds, indices, None, shape, is_set=False)


def _packed(integers: Array) -> Array:
    """The array in the kernel's layout: packed int32 or int64."""
    wanted = integers.dtype if integers.dtype in (np.int32, np.int64) else np.int64
    return np.ascontiguousarray(integers, wanted)


def _sorted(
    offsets: Array, indices: Array, padding: int | None, shape: Shape, *, is_set: bool
) -> tuple[SparseRows, Array | None]:
    """The rows, and where each index has stood; None if the indices were in order already."""
    given = _described(offsets), _described(indices), 0, shape[1], padding, is_set
    fault, row, label, is_canonical = native.read_labels(*given)
    if fault:
        raise _refusal(fault, row, label, padding, shape)
    size = (shape[0], shape[1])
    if is_canonical:
        return SparseRows(offsets, indices, None, size), None
    bounds, ordered, places = np.empty_like(offsets), np.empty_like(indices), np.empty(len(indices), np.int64)
    fault, row, label, _ = native.read_labels(*given, tuple(map(_described, (bounds, ordered, places))))
    if fault:
        raise _refusal(fault, row, label, padding, shape)
    kept = int(bounds[-1])
    return SparseRows(bounds, ordered[:kept], None, size), places[:kept]


def _described(array: Array) -> native.Operand:
    return array.ctypes.data, native.TAGS[array.dtype.name], array.shape, None


def described(rows: SparseRows) -> SparseRows:
    """The rows as the native kernel takes them."""
    values = None if rows.values is None else _described(rows.values)
    return rows._replace(offsets=_described(rows.offsets), indices=_described(rows.indices), values=values)


def _refusal(fault: int, row: int, label: int, padding: int | None, shape: Shape) -> RefusalError:
    if fault == _BAD_OFFSETS:
        return RefusalError("target", f"offsets: row {row} has {label}; expected 0 first, and never less than before")
    if fault == _TWICE:
        return RefusalError(
            "target",
            f"row {row} stores label {label} twice, which in CSR means the sum; make it once by .sum_duplicates() "
            "in SciPy, by .to_sparse_coo().coalesce().to_sparse_csr() in torch",
        )
    hint = "; what pads is named by padding=" if label < 0 and padding is None else ""
    return RefusalError("target", f"row {row} has label {label}; expected 0 to {shape[1] - 1}{hint}")


_ANYTHING = np.zeros((), bool)


def logits_to_count(shape: Shape) -> native.Operand:
    """An operand of that shape in the logits' place, where what is counted depends on none of them."""
    return (*_described(_ANYTHING)[:2], shape, (0,) * len(shape))


def dense(rows: SparseRows) -> Array:
    """The target with all its elements, of the values' dtype (bool if there are none), in NumPy's arrays."""
    target = np.zeros(rows.shape, bool if rows.values is None else rows.values.dtype)
    stored = slice(rows.offsets[0], rows.offsets[-1])
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.offsets))
    column = rows.indices[stored] - rows.first
    inside = (column >= 0) & (column < rows.shape[1])
    target[row[inside], column[inside]] = True if rows.values is None else rows.values[stored][inside]
    return target
