"""Reads .parquet files, and the batches of any of Arrow's readers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent.files.table import Table, TableError, column_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from binxent.arrays import Array


def parquet(shown: str) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(shown)
    except pyarrow.ArrowInvalid as error:
        raise TableError(f"{shown}: {one_line(error)}") from error
    check_numbers(shown, file.schema_arrow)
    names = column_names(shown, file.schema_arrow.names)

    def arrays(size: int) -> Iterator[Array]:
        try:
            for batch in file.iter_batches(batch_size=size):
                yield matrix(batch)
        except pyarrow.ArrowInvalid as error:
            raise TableError(f"{shown}: {one_line(error)}") from error

    return Table(shown, file.metadata.num_rows, len(names), names, False, lambda size: regrouped(arrays(size), size))


def check_numbers(shown: str, schema: Any) -> None:
    """Raises TableError for a column that holds anything but numbers and bools."""
    import pyarrow

    for column in schema:
        kind = column.type
        number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        if not number:
            raise TableError(f"{shown}: column {column.name!r} holds {kind}; expected numbers")


def matrix(batch: Any) -> Array:
    """The columns of an Arrow batch, whose nulls are NaN."""
    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    columns = [c.astype(np.float64) if c.dtype == object else c for c in columns]  # of bools with nulls
    return np.stack(columns, axis=1) if columns else np.empty((batch.num_rows, 0))


def regrouped(arrays: Iterator[Array], size: int) -> Iterator[Callable[[], Array]]:
    """Yields batches of any length as parts of one length, so that two files are read in step."""
    held: list[Array] = []
    count = 0
    for array in arrays:
        held.append(array)
        count += len(array)
        if count >= size:
            whole = np.concatenate(held)
            cut = count - count % size
            for first in range(0, cut, size):
                yield partial(_rows, whole, first, first + size)
            held, count = [whole[cut:]], count - cut
    if count:
        yield partial(_rows, np.concatenate(held), 0, count)


def _rows(whole: Array, first: int, last: int) -> Array:
    return whole[first:last]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
