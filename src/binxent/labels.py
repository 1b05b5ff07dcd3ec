"""Counts the positives and negatives of each label, which give its pos_weight.

``count_labels`` takes arrays, sparse matrices, tables of pandas, polars and Arrow, files, tensors of any framework, and
batches of these.
Files that are not sparse are counted in bounded memory. Counts of shards are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from binxent import frames
from binxent.arrays import Array, as_array, is_arrow, is_sparse
from binxent.label_counts import LabelCounts, add
from binxent.label_names import are_places, numbered, reordering

__all__ = ["LabelCounts", "count_labels"]

_NO_WEIGHTS = "sample_weight: not for batches, files and Arrow tables; update counts batch by batch"
_CHUNK = 1 << 20  # elements, or entries of a sparse matrix, that are counted at once


def count_labels(
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    sample_weight: Any = None,
    ignore_index: float | None = None,
    header: bool | None = None,
) -> LabelCounts:
    """Counts the positives and negatives of each label.

    Args:
        labels: of shape [rows, labels], or [rows] for one label; each in [0, 1] (a soft one counts in parts) or not
            known: NaN, a missing value of a table, or ``ignore_index``. Any of

            - a NumPy array, a memory map of a file included, or a tensor in the CPU's memory;
            - a sparse matrix or array of SciPy; csr, csc and coo are counted as they are, others through csr;
            - a DataFrame or Series of pandas or polars, with a column for each label;
            - a ``pyarrow`` Table or RecordBatch with a column for each label, or a column;
            - the path of a .npy, .npz, .csv or .parquet file, read in batches (with the extra ``cli``);
            - an iterable of any of these, or a list of arrays: batches.
        names: of the labels; by default those of the columns, or else their numbers. Columns that have the same names
            are put in this order; other columns are renamed.
        sample_weight: [rows]; then the counts are sums of weights. Not for batches, files and Arrow tables:
            use ``LabelCounts.update`` for each.
        ignore_index: a further value that means that the label is not known.
        header: whether the first line of a .csv file names the labels; by default this is detected.

    Returns:
        The counts, whose ``pos_weight()`` is the vector that a loss takes.

    Raises:
        TypeError: ``labels`` holds no numbers.
        ValueError: a label outside [0, 1], whose row and column are named; a shape that does not fit; or a first line
            of a .csv file that may name the labels or be one row of them.
    """
    if isinstance(labels, (str, os.PathLike)):
        if sample_weight is not None:
            raise ValueError(_NO_WEIGHTS)
        counts = _count_file(labels, ignore_index, header)
    else:
        counts = _count(labels, sample_weight, ignore_index)
    if names is None:
        return counts
    order = None if are_places(counts.names) else reordering(counts.names, names)
    positives, negatives = counts.positives, counts.negatives
    if order is not None:  # a file that names the same labels in another order
        positives, negatives = positives[order], negatives[order]
    return LabelCounts(positives, negatives, list(names), counts.rows)


def _count(labels: Any, sample_weight: Any, ignore_index: float | None) -> LabelCounts:
    if is_sparse(labels):
        return _count_sparse(labels, _weights(sample_weight, labels.shape[0]), ignore_index)
    if isinstance(labels, (str, os.PathLike)) or is_arrow(labels) or _is_batches(labels):
        if sample_weight is not None:
            raise ValueError(_NO_WEIGHTS)
        if is_arrow(labels):
            return _count_arrow(labels, ignore_index)
        if isinstance(labels, (str, os.PathLike)):
            return _count_file(labels, ignore_index, None)
        return _count_batches(iter(labels), ignore_index)
    if frames.is_frame(labels):
        frame, names = frames.as_table(labels), frames.names(labels)
        weights = _weights(sample_weight, len(frame))
        return _count_rows(lambda rows: frames.read(frame, rows), frame.shape, weights, ignore_index, names)
    array = as_array("labels", labels)
    if array.ndim not in (1, 2):
        raise ValueError(f"labels: shape {array.shape}; expected [rows, labels] or [rows]")
    matrix = array.reshape(len(array), -1) if array.size else array.reshape(len(array), *array.shape[1:] or (1,))
    return _count_rows(lambda rows: matrix[rows], matrix.shape, _weights(sample_weight, len(array)), ignore_index)


def _is_batches(labels: Any) -> bool:
    if isinstance(labels, (list, tuple)):
        return bool(labels) and (hasattr(labels[0], "shape") or is_arrow(labels[0]))
    if frames.is_frame(labels):
        return False
    return isinstance(labels, Iterable) and not hasattr(labels, "__array__") and not hasattr(labels, "__dlpack__")


def _weights(sample_weight: Any, rows: int) -> Array | None:
    if sample_weight is None:
        return None
    weights = as_array("sample_weight", sample_weight).astype(np.float64)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight: shape {weights.shape}; expected ({rows},), one weight for each row")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sample_weight: every weight must be finite and at least 0")
    return weights


def _count_file(path: str | os.PathLike[str], ignore_index: float | None, header: bool | None) -> LabelCounts:
    from binxent.files import TableError, open_table, read_sparse

    matrix = read_sparse(path)
    if matrix is not None:
        return _count_sparse(matrix, None, ignore_index)
    with open_table(path, header=header) as table:
        if table.unclear is not None:
            raise TableError(
                f"{table.path}: its first line, {table.unclear}, may name the labels or be a row; "
                "say header=True or header=False"
            )
        names = table.names or numbered(table.columns)
        nothing = np.zeros(table.columns, np.int64)
        total = LabelCounts(nothing, nothing, names)
        for load in table.parts(max(1, _CHUNK // max(1, table.columns))):
            part = load()
            plus, minus = _count_part(total.rows, part, None, ignore_index, table.names)
            total.merge(LabelCounts(plus, minus, names, len(part)))
    return total


def _count_batches(batches: Iterator[Any], ignore_index: float | None) -> LabelCounts:
    total: LabelCounts | None = None
    for batch in batches:
        counts = batch if isinstance(batch, LabelCounts) else _count(batch, None, ignore_index)
        if total is None:
            total = counts
        elif len(total.names) != len(counts.names):
            raise ValueError(f"labels: a batch has {len(counts.names)} labels, and those before {len(total.names)}")
        else:
            total.merge(counts)
    if total is None:
        raise ValueError("labels: no batch")
    return total


def _refuse(first: int, part: Array, known: Array, names: list[str] | None) -> None:
    wrong = np.argwhere(known & ~((part >= 0) & (part <= 1)))
    row, label = (int(i) for i in wrong[0])
    named = f" ({names[label]})" if names else ""
    raise ValueError(f"labels: {part[row, label]} in row {first + row}, column {label}{named}; expected 0 to 1, or NaN")


def _count_rows(
    read: Callable[[slice], Array],
    shape: tuple[int, ...],
    weights: Array | None,
    ignore_index: float | None,
    names: list[str] | None = None,
) -> LabelCounts:
    """The counts of a matrix of that shape, whose rows are read in parts."""
    rows, labels = shape
    positives = np.zeros(labels, np.int64 if weights is None else np.float64)
    negatives = np.zeros_like(positives)
    step = max(1, _CHUNK // max(1, labels))
    for first in range(0, rows, step):
        part = read(slice(first, first + step))
        w = None if weights is None else weights[first : first + step]
        plus, minus = _count_part(first, part, w, ignore_index, names)
        positives, negatives = add(positives, plus), add(negatives, minus)
    return LabelCounts(positives, negatives, names or [], rows=rows)


def _count_part(
    first: int, part: Array, weights: Array | None, ignore_index: float | None, names: list[str] | None = None
) -> tuple[Array, Array]:
    """Σ w·y and Σ w·(1−y) of rows that begin with the row ``first``."""
    rows = len(part)
    if part.dtype == bool and ignore_index is None:
        positive, known, soft = part, None, False
    else:
        unknown = np.isnan(part) if part.dtype.kind not in "biu" else np.zeros(part.shape, bool)
        if ignore_index is not None:
            unknown |= part == ignore_index
        known = ~unknown if unknown.any() else None
        positive = part if known is None else np.where(known, part, part.dtype.type(0))
        if positive.size and not (positive.min() >= 0 and positive.max() <= 1):
            _refuse(first, part, ~unknown, names)
        soft = positive.dtype.kind not in "biu" and bool(((positive != 0) & (positive != 1)).any())
    if weights is not None:
        known_weight = np.full(part.shape[1], weights.sum()) if known is None else weights @ known
        plus = weights @ positive.astype(np.float64)
        return plus, known_weight - plus
    whole: Array = np.full(part.shape[1], rows) if known is None else known.sum(axis=0, dtype=np.int64)
    if soft:
        plus = positive.sum(axis=0, dtype=np.float64)
    else:
        plus = np.count_nonzero(positive, axis=0)
    return plus, whole - plus


def _count_sparse(matrix: Any, weights: Array | None, ignore_index: float | None) -> LabelCounts:
    if len(matrix.shape) != 2:
        raise ValueError(f"labels: shape {matrix.shape}; expected [rows, labels]")
    if ignore_index == 0:
        raise ValueError(
            "ignore_index: 0 is what a sparse matrix does not hold; it cannot mean that a label is unknown"
        )
    if matrix.format not in ("csr", "csc", "coo"):
        matrix = matrix.tocsr()
    if not getattr(matrix, "has_canonical_format", True):
        # Entries of one place are one label, whose value is their sum.
        matrix = matrix.copy()
        matrix.sum_duplicates()
    rows, labels = matrix.shape
    positives = np.zeros(labels, np.int64 if weights is None else np.float64)
    unknown = np.zeros_like(positives)
    for row, column, value in _entries(matrix):
        there = np.isnan(value) if value.dtype.kind not in "biu" else np.zeros(value.shape, bool)
        if ignore_index is not None:
            there |= value == ignore_index
        if there.any():
            # Unknown entries become 0 before the range is checked, because they may hold any number.
            unknown = add(unknown, _tally(row, column, there, weights, labels))
            value = np.where(there, value.dtype.type(0), value)
        if len(value) and not (value.min() >= 0 and value.max() <= 1):
            wrong = int(np.flatnonzero(~((value >= 0) & (value <= 1)))[0])
            raise ValueError(
                f"labels: {value[wrong]} in row {int(row()[wrong])}, column {int(column()[wrong])}; expected 0 to 1"
            )
        positives = add(positives, _tally(row, column, value, weights, labels))
    whole = rows if weights is None else float(weights.sum())
    return LabelCounts(positives, whole - unknown - positives, rows=rows)


def _tally(row: Any, column: Any, value: Array, weights: Array | None, labels: int) -> Array:
    """The sum of the values of each column, as an integer where each value is 0 or 1."""
    ones = bool((value == 1).all())
    if weights is None and (ones or bool(((value == 0) | (value == 1)).all())):
        return np.bincount(column() if ones else column()[value == 1], minlength=labels)
    each = value.astype(np.float64) if weights is None else value * weights[row()]
    return np.bincount(column(), weights=each, minlength=labels)


def _entries(matrix: Any) -> Iterator[tuple[Any, Any, Array]]:
    """Yields the entries in pieces: two functions that make their rows and columns if needed, and their values."""
    entries = int(matrix.nnz)
    for first in range(0, entries, _CHUNK):
        part = slice(first, min(first + _CHUNK, entries))
        value = matrix.data[part]
        if matrix.format == "coo":
            yield (lambda part=part: matrix.row[part]), (lambda part=part: matrix.col[part]), value
            continue

        def along(part: slice = part) -> Array:
            """The row, or for csc the column, that each entry belongs to."""
            pointer = matrix.indptr
            begin = int(np.searchsorted(pointer, part.start, side="right")) - 1
            end = int(np.searchsorted(pointer, part.stop, side="left"))
            sizes = np.diff(np.clip(pointer[begin : end + 1], part.start, part.stop))
            return np.repeat(np.arange(begin, end), sizes)

        def across(part: slice = part) -> Array:
            return np.asarray(matrix.indices[part])

        yield (along, across, value) if matrix.format == "csr" else (across, along, value)


def _count_arrow(table: Any, ignore_index: float | None) -> LabelCounts:
    named = hasattr(table, "column_names") or hasattr(table, "schema")
    columns = list(table.columns) if named else [table]
    names = [str(name) for name in table.schema.names] if named else None
    counts = []
    for i, column in enumerate(columns):
        total = LabelCounts(np.zeros(1, np.int64), np.zeros(1, np.int64))
        chunks = column.chunks if hasattr(column, "chunks") else [column]
        for chunk in chunks:
            values = chunk.drop_null().to_numpy(zero_copy_only=False)
            try:
                total.merge(_count(values, None, ignore_index))
            except (TypeError, ValueError) as error:
                raise type(error)(f"column {names[i] if names else i!r}: {error}") from None
        counts.append(total)
    rows = len(table)
    return LabelCounts(
        np.concatenate([c.positives for c in counts]), np.concatenate([c.negatives for c in counts]), names or [], rows
    )
