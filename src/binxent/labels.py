"""pos_weight from data: how many positives and negatives each label has, wherever the labels are.

Arrays, sparse matrices, Arrow tables, files, tensors of any framework, batches of these: ``count_labels`` counts them
in bounded memory. Counts over shards are merged by adding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binxent import formula
from binxent.arrays import Array, as_array, is_arrow, is_sparse

__all__ = ["LabelCounts", "count_labels"]

METHODS = ("balanced", "sqrt", "effective")
_CHUNK = 1 << 20  # elements, or entries of a sparse matrix, that are worked on at once


def _add(a: Array, b: Array) -> Array:
    """Integers stay integers, which adds exactly in any order."""
    return np.asarray(a + b)


def _named(names: Sequence[str], where: Array, limit: int = 5) -> str:
    chosen = [repr(name) for name, there in zip(names, where.tolist(), strict=True) if there]
    rest = len(chosen) - limit
    return ", ".join(chosen[:limit]) + (f" and {rest} more" if rest > 0 else "")


@dataclass
class LabelCounts:
    """Positives and negatives of each label.

    ``positives`` and ``negatives`` are [labels]: int64 where every label was 0 or 1 and none was weighted, else float64
    sums (Σ w·y and Σ w·(1−y)). What is not known counts as neither. ``names`` are the labels' numbers if there are no
    names.

    Examples:
        >>> import numpy as np
        >>> counts = count_labels(np.array([[1, 0], [0, 0], [1, 1], [0, 0]]), names=["cat", "dog"])
        >>> counts.pos_weight()
        array([1., 3.], dtype=float32)
        >>> counts.merge(count_labels(np.array([[0, 1]]), names=["cat", "dog"]))
        >>> counts.positives, counts.negatives
        (array([2, 2]), array([3, 3]))
    """

    positives: Array
    negatives: Array
    names: list[str] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        self.positives, self.negatives = np.asarray(self.positives), np.asarray(self.negatives)
        if self.positives.ndim != 1 or self.positives.shape != self.negatives.shape:
            raise ValueError(f"positives of shape {self.positives.shape}, negatives of shape {self.negatives.shape}")
        self.names = [str(name) for name in self.names] or [str(i) for i in range(len(self.positives))]
        if len(self.names) != len(self.positives):
            raise ValueError(f"names: {len(self.names)}, but there are {len(self.positives)} labels")

    def update(self, labels: Any, *, sample_weight: Any = None, ignore_index: float | None = None) -> None:
        """Counts more labels; arguments and errors are those of ``count_labels``."""
        self.merge(count_labels(labels, names=self.names, sample_weight=sample_weight, ignore_index=ignore_index))

    def merge(self, other: LabelCounts) -> None:
        """Adds what another worker has counted. Any order gives the same integers.

        Raises:
            ValueError: the labels are others.
        """
        if self.names != other.names:
            raise ValueError(f"labels differ: {len(self.names)} and {len(other.names)} of them, or their names do")
        self.positives = _add(self.positives, other.positives)
        self.negatives = _add(self.negatives, other.negatives)
        self.rows += other.rows

    def as_dict(self) -> dict[str, Any]:
        """Names and numbers as JSON has them."""
        counts = {"positives": self.positives.tolist(), "negatives": self.negatives.tolist()}
        return {"names": self.names, "rows": self.rows, **counts}

    def to_json(self) -> str:
        """As text, for another worker or for later; ``from_json`` reads it. Nothing is rounded."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> LabelCounts:
        values = json.loads(text)
        return cls(values["positives"], values["negatives"], values["names"], values["rows"])

    def pos_weight(
        self,
        method: str = "balanced",
        *,
        beta: float = 0.999,
        clip: tuple[float, float] | None = None,
        without_positives: str | float = "error",
        dtype: Any = np.float32,
    ) -> Array:
        """The ``pos_weight`` of each label, with P positives and N negatives::

            balanced   N / P: positives and negatives weigh the same
            sqrt       √(N / P): half way, on a scale of ratios
            effective  E(N) / E(P), E(n) = (1 − βⁿ)/(1 − β): the effective number of samples, which tends to 1/(1−β)

        ``effective`` is 1 for β = 0 and tends to ``balanced`` for β → 1.

        Args:
            method: ``"balanced"``, ``"sqrt"`` or ``"effective"``.
            beta: of ``effective``, in [0, 1).
            clip: the least and the greatest value.
            without_positives: what a label without positives gets, whose ratio is infinite: a number, or ``"error"``.
                ``clip`` does not act on that number. A label without negatives has 0, as the formulas give it.
            dtype: of the result.

        Returns:
            [labels], float32 by default.

        Raises:
            ValueError: labels without positives, which are named; or an argument is out of range.

        References:
            Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019 (`effective`).

        Examples:
            >>> LabelCounts([100, 1], [900, 999]).pos_weight("sqrt", clip=(1, 10))
            array([ 3., 10.], dtype=float32)
        """
        if method not in METHODS:
            raise ValueError(f"method: {method!r}; expected one of {METHODS}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta: {beta}; expected at least 0 and less than 1")
        if clip is not None and not 0 <= clip[0] <= clip[1]:
            raise ValueError(f"clip: {clip}; expected (least, greatest), neither negative")
        positives, negatives = self.positives.astype(np.float64), self.negatives.astype(np.float64)
        none = positives == 0
        if without_positives == "error":
            if none.any():
                raise ValueError(
                    f"{int(none.sum())} of {len(none)} labels have no positives: {_named(self.names, none)}; "
                    "give what they get, without_positives=1.0 for example, or leave them out"
                )
            instead = np.nan
        else:
            instead = float(without_positives)
            if not 0 <= instead < np.inf:
                raise ValueError(f"without_positives: {without_positives!r}; expected 'error' or a number, at least 0")
        if method == "effective" and beta > 0:
            positives, negatives = (formula.effective_number(np, n, beta) for n in (positives, negatives))
        elif method == "effective":
            positives, negatives = (np.minimum(n, 1.0) for n in (positives, negatives))  # the first one is all
        weight = negatives / np.where(none, 1, positives)
        if method == "sqrt":
            weight = np.sqrt(weight)
        if clip is not None:
            weight = np.clip(weight, *clip)
        return np.where(none, instead, weight).astype(dtype)


def count_labels(
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    sample_weight: Any = None,
    ignore_index: float | None = None,
) -> LabelCounts:
    """Counts the positives and negatives of each label.

    Args:
        labels: of shape [rows, labels], or [rows] for one label; each in [0, 1] (a soft one counts in parts) or not
            known: NaN, a null of Arrow, or ``ignore_index``. Any of

            - a NumPy array, a memory map of a file included, or a tensor in the processor's memory;
            - a sparse matrix or array of SciPy; csr, csc and coo are counted as they are, others through csr;
            - a ``pyarrow`` Table or RecordBatch with a column for each label, or a column;
            - the path of a .npy, .npz, .csv or .parquet file, read in batches (with the extra ``cli``);
            - an iterable of any of these, or a list of arrays: batches.
        names: of the labels; by default the columns' names where there are columns, else their numbers.
        sample_weight: [rows]; then the counts are sums of weights. Not for batches, files and Arrow tables:
            use ``LabelCounts.update`` for each.
        ignore_index: a further value that means that the label is not known.

    Raises:
        TypeError: something that has no numbers.
        ValueError: a label outside [0, 1], whose row and column are named; or a shape that does not fit.
    """
    counts = _count(labels, sample_weight, ignore_index)
    if names is not None:
        counts = LabelCounts(counts.positives, counts.negatives, list(names), counts.rows)
    return counts


def _count(labels: Any, sample_weight: Any, ignore_index: float | None) -> LabelCounts:
    if is_sparse(labels):
        return _count_sparse(labels, _weights(sample_weight, labels.shape[0]), ignore_index)
    if isinstance(labels, (str, os.PathLike)) or is_arrow(labels) or _is_batches(labels):
        if sample_weight is not None:
            raise ValueError("sample_weight: not for batches, files and Arrow tables; update counts batch by batch")
        if is_arrow(labels):
            return _count_arrow(labels, ignore_index)
        if isinstance(labels, (str, os.PathLike)):
            return _count_file(labels, ignore_index)
        return _count_batches(iter(labels), ignore_index)
    array = as_array("labels", labels)
    if array.ndim not in (1, 2):
        raise ValueError(f"labels: shape {array.shape}; expected [rows, labels] or [rows]")
    matrix = array.reshape(len(array), -1) if array.size else array.reshape(len(array), *array.shape[1:] or (1,))
    return _count_array(matrix, _weights(sample_weight, len(array)), ignore_index)


def _is_batches(labels: Any) -> bool:
    if isinstance(labels, (list, tuple)):
        return bool(labels) and (hasattr(labels[0], "shape") or is_arrow(labels[0]))
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


def _count_file(path: str | os.PathLike[str], ignore_index: float | None) -> LabelCounts:
    from binxent.files import open_table, read_sparse

    matrix = read_sparse(path)
    if matrix is not None:
        return _count_sparse(matrix, None, ignore_index)
    with open_table(path) as table:
        names = table.names or [str(i) for i in range(table.columns)]
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


def _count_array(matrix: Array, weights: Array | None, ignore_index: float | None) -> LabelCounts:
    rows, labels = matrix.shape
    positives = np.zeros(labels, np.int64 if weights is None else np.float64)
    negatives = np.zeros_like(positives)
    step = max(1, _CHUNK // max(1, labels))
    for first in range(0, rows, step):
        part = matrix[first : first + step]
        w = None if weights is None else weights[first : first + step]
        plus, minus = _count_part(first, part, w, ignore_index)
        positives, negatives = _add(positives, plus), _add(negatives, minus)
    return LabelCounts(positives, negatives, rows=rows)


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
        kept = np.full(part.shape[1], weights.sum()) if known is None else weights @ known
        plus = weights @ positive.astype(np.float64)
        return plus, kept - plus
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
        # An entry that is given twice is one label, and its value the sum.
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
            # Placed first: what is unknown may be any number.
            unknown = _add(unknown, _tally(row, column, there, weights, labels))
            value = np.where(there, value.dtype.type(0), value)
        if len(value) and not (value.min() >= 0 and value.max() <= 1):
            wrong = int(np.flatnonzero(~((value >= 0) & (value <= 1)))[0])
            raise ValueError(
                f"labels: {value[wrong]} in row {int(row()[wrong])}, column {int(column()[wrong])}; expected 0 to 1"
            )
        positives = _add(positives, _tally(row, column, value, weights, labels))
    whole = rows if weights is None else float(weights.sum())
    return LabelCounts(positives, whole - unknown - positives, rows=rows)


def _tally(row: Any, column: Any, value: Array, weights: Array | None, labels: int) -> Array:
    """Σ of the values of each column; as integers where each is 0 or 1."""
    ones = bool((value == 1).all())
    if weights is None and (ones or bool(((value == 0) | (value == 1)).all())):
        return np.bincount(column() if ones else column()[value == 1], minlength=labels)
    each = value.astype(np.float64) if weights is None else value * weights[row()]
    return np.bincount(column(), weights=each, minlength=labels)


def _entries(matrix: Any) -> Iterator[tuple[Any, Any, Array]]:
    """The entries in pieces: functions that make their rows and columns, which may not be needed; and their values."""
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
