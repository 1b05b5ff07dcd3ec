"""Checks the shape of each file against the predictions, and reads files with one number or name for each label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from binxent.files import TableError, column_names, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from binxent.arrays import Array
    from binxent.files import Table


OF_CLASS = ("pos_weight", "neg_weight")  # of which a file has one number for each label, as a row or as a column


def check_shapes(tables: Mapping[str, Table]) -> None:
    """Raises TableError where a file does not have as many columns as it must."""
    predictions = tables["predictions"]
    if predictions.columns == 0:
        raise TableError(f"{predictions.path}: has no columns")
    for argument, table in tables.items():
        columns = 1 if argument == "sample_weight" else predictions.columns
        if table.columns == columns or argument in OF_CLASS or (argument == "weight" and table.columns == 1):
            continue
        if argument == "labels":
            raise TableError(
                f"{table.path}: has {plural(table.columns, 'column')}, but {predictions.path} has {columns}"
            )
        raise TableError(f"{table.path}: has {plural(table.columns, 'column')}; expected {columns}")


def check_rows(tables: Mapping[str, Table]) -> None:
    """Raises TableError where files that are read side by side are known to have different numbers of rows."""
    first = next((table for table in tables.values() if table.rows is not None), None)
    for table in tables.values():
        if first is not None and table.rows is not None and table.rows != first.rows:
            raise TableError(f"{table.path}: has {plural(table.rows, 'row')}, but {first.path} has {first.rows:,}")


def is_constant(weight: Table) -> bool:
    """Whether a file of weights has one for each label, and not one for each element."""
    if weight.flat or weight.rows is not None:
        return weight.flat or weight.rows == 1
    first = next(iter(weight.parts(2)), None)
    return first is not None and len(first()) == 1


def vector(table: Table | None, labels: Sequence[str], order: list[int] | None) -> Array | None:
    """Returns the one number for each label that a file has as a row, in this order of columns, or as a column.

    Raises:
        TableError: it has another shape, or a number is negative or not finite.
    """
    if table is None:
        return None
    values = table.read()
    if values.size != len(labels) or min(values.shape) != 1:
        raise TableError(
            f"{table.path}: shape {values.shape}; expected one number for each of {plural(len(labels), 'label')}"
        )
    row = values.reshape(-1) if order is None else values.reshape(-1)[order]
    wrong = ~((row >= 0) & (row < float("inf")))
    if wrong.any():
        first = int(wrong.argmax())
        raise TableError(
            f"{table.path}: {row[first]} for label {labels[first]}; expected a finite number of at least 0"
        )
    return row


def read_names(path: str, predictions: Table) -> list[str]:
    """Returns the lines of a file that are not blank, one for each column of the predictions."""
    try:
        names = column_names(path, [line for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()])
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise TableError(f"{path}: {error.strerror or error}") from error
    if len(names) != predictions.columns:
        found, columns = plural(len(names), "name"), plural(predictions.columns, "column")
        raise TableError(f"{path}: has {found}, but {predictions.path} has {columns}")
    return names
