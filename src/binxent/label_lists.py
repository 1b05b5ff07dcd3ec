"""Reads lists of indices of any lengths: Python's, SciPy's and Arrow's. Neither SciPy nor pyarrow is imported."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from binxent.arrays import Array

Lists = tuple["Array", "Array"]  # the indices, and the offsets: one more than there are rows


def of_lists(rows: Iterable[Iterable[int]]) -> Lists:
    lists = [np.asarray(list(row)) for row in rows]
    for number, row in enumerate(lists):
        if row.size and (row.ndim != 1 or row.dtype.kind not in "iu"):
            raise TypeError(f"rows: row {number} holds no integers, but {row.dtype} of shape {row.shape}")
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(row) for row in lists], out=offsets[1:])
    return np.fromiter(chain.from_iterable(lists), np.int64, int(offsets[-1])), offsets


def of_csr(matrix: Any) -> Lists:
    if getattr(matrix, "format", None) != "csr" or len(matrix.shape) != 2:
        raise ValueError(f"matrix: a {type(matrix).__name__}; expected SciPy's CSR format of two dimensions: .tocsr()")
    values = np.asarray(matrix.data)
    positive = values != 0
    if not bool((values[positive] == 1).all()):
        raise ValueError("matrix: holds other values than 0 and 1; pass it as the target itself")
    indices, offsets = np.asarray(matrix.indices), np.asarray(matrix.indptr).astype(np.int64)
    if positive.all():
        return indices, offsets
    before = np.zeros(len(positive) + 1, np.int64)
    np.cumsum(positive, out=before[1:])
    return indices[positive], before[offsets]


def of_arrow(column: Any) -> Lists:
    chunks = getattr(column, "chunks", None)
    if chunks is not None:
        column = column.combine_chunks() if len(chunks) != 1 else chunks[0]
        if getattr(column, "chunks", None) is not None:  # no chunk at all, in some versions
            return np.zeros(0, np.int64), np.zeros(1, np.int64)
    if not hasattr(column, "flatten") or not str(getattr(column, "type", "")).startswith(
        ("list<", "large_list<", "fixed_size_list<")
    ):
        raise ValueError(f"column: {getattr(column, 'type', type(column).__name__)}; expected lists of integers")
    if column.null_count:
        raise ValueError(f"column: {column.null_count} rows are null; expected an empty list where no label is known")
    indices = column.flatten()  # without what a slice leaves out, unlike .values
    if indices.null_count:
        raise ValueError(f"column: {indices.null_count} indices are null")
    if "int" not in str(indices.type):
        raise ValueError(f"column: lists of {indices.type}; expected integers")
    if not hasattr(column, "offsets"):
        width = column.type.list_size
        return indices.to_numpy(), np.arange(0, len(column) * width + 1, width or 1, dtype=np.int64)[: len(column) + 1]
    offsets = column.offsets.to_numpy().astype(np.int64)
    return indices.to_numpy(), offsets - offsets[0]
