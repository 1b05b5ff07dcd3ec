"""Defines a table in a file: what is known before it is read, and how to read its parts."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from binxent.arrays import Array


class TableError(ValueError):
    """A file that cannot be read as a table: the message says which, and why."""


@dataclass(frozen=True)
class Table:
    """An open file.

    Attributes:
        path: as it was given.
        rows: their number, or None if only reading the file tells.
        columns: their number.
        names: of the columns, or None if the file has none.
        flat: whether the file holds one dimension, and not a matrix of one column.
        parts: called with a number of rows, gives functions that each read the next so many rows, as a matrix; the
            last may be shorter. The functions may be called in any thread, and in any order.
        unclear: the first line of a .csv file, where it may name the columns or be a row. It is read as a row.
    """

    path: str
    rows: int | None
    columns: int
    names: list[str] | None
    flat: bool
    parts: Callable[[int], Iterator[Callable[[], Array]]]
    unclear: str | None = None

    def read(self) -> Array:
        """Returns all rows."""
        parts = [load() for load in self.parts(1 << 16)]
        return np.concatenate(parts) if parts else np.empty((0, self.columns))

    def count_rows(self) -> int:
        """Returns the number of rows, for which the file may have to be read."""
        return self.rows if self.rows is not None else sum(len(load()) for load in self.parts(1 << 16))


def plural(count: int, what: str) -> str:
    """Returns ``1 column``, ``2 columns``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def column_names(shown: str, names: list[str]) -> list[str]:
    """Returns the names in the form in which they are compared: without blanks around them, and in NFC.

    Raises:
        TableError: a column has no name, or that of a pandas index, which would be scored as a label.
    """
    names = [unicodedata.normalize("NFC", name.strip()) for name in names]
    for number, name in enumerate(names):
        if name and not name.startswith("__index_level_"):
            continue
        what = f"is the index {name!r}" if name else "has no name"
        raise TableError(
            f"{shown}: column {number}, counted from 0, {what}; "
            "leave an index out (pandas: index=False), or name the column"
        )
    return names
