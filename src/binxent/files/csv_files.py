"""Reads .csv and .csv.gz files by Arrow, after finding out what the first line is."""

from __future__ import annotations

import csv
import io
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binxent.files.arrow_files import check_numbers, matrix, one_line, regrouped
from binxent.files.table import Table, TableError, column_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from binxent.arrays import Array

_LOOKED_AT = 20  # lines below the first, from which it is found out what that is
# Cells that are no number, and yet no name of a column: Arrow reads them as bools or nulls.
_VALUES = {
    "",
    "true",
    "false",
    "null",
    "na",
    "n/a",
    "#na",
    "#n/a",
    "#n/a n/a",
    "1.#ind",
    "-1.#ind",
    "1.#qnan",
    "-1.#qnan",
}


@dataclass(frozen=True)
class _Top:
    """The first lines. ``headed`` is None where the first may name the columns or be a row."""

    delimiter: str
    cells: list[str]
    headed: bool | None


def read_csv(shown: str, headed: bool | None) -> Table:
    """Opens the file. ``headed``: whether the first line names the columns; None: find out."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    top = _top(shown)
    if headed is None:
        headed = top.headed
    unclear = top.delimiter.join(top.cells) if headed is None else None

    def batches(types: dict[str, Any] | None) -> Any:
        # With one thread, Arrow's errors name the row that it cannot read.
        return arrow_csv.open_csv(
            shown,
            read_options=arrow_csv.ReadOptions(use_threads=False, autogenerate_column_names=not headed),
            parse_options=arrow_csv.ParseOptions(delimiter=top.delimiter),
            convert_options=arrow_csv.ConvertOptions(column_types=types),
        )

    try:
        with batches(None) as reader:
            schema = reader.schema
    except pyarrow.ArrowInvalid as error:
        raise TableError(f"{shown}: {one_line(error)}") from error
    nulls = [pyarrow.types.is_null(column.type) for column in schema]
    schema = pyarrow.schema(
        [
            pyarrow.field(c.name, pyarrow.float64()) if null or pyarrow.types.is_integer(c.type) else c
            for c, null in zip(schema, nulls, strict=True)
        ]
    )
    check_numbers(shown, schema)
    names = None
    if headed:  # Arrow's own names are wrong for a quoted name after a blank: it keeps the quotes, and splits inside
        names = column_names(shown, top.cells if len(top.cells) == len(schema) else schema.names)

    def arrays() -> Iterator[Array]:
        try:
            with batches({column.name: column.type for column in schema}) as reader:
                for batch in reader:
                    yield matrix(batch)
        except pyarrow.ArrowInvalid as error:
            raise TableError(f"{shown}: {one_line(error)}") from error

    return Table(shown, None, len(schema), names, False, lambda size: regrouped(arrays(), size), unclear)


def _top(shown: str) -> _Top:
    import pyarrow

    try:
        with open(shown, "rb") as file:
            compression = "gzip" if shown.lower().endswith(".gz") else None
            text = io.TextIOWrapper(pyarrow.input_stream(file, compression), encoding="utf-8-sig", newline="")
            lines = list(itertools.islice((line for line in text if line.strip()), _LOOKED_AT + 1))
    except UnicodeDecodeError as error:
        raise TableError(f"{shown}: is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    if not lines:
        raise TableError(f"{shown}: is empty")
    unquoted = re.sub(r'"[^"]*"', "", lines[0])
    delimiter = next((mark for mark in ",;\t" if mark in unquoted), ",")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise TableError(f"{shown}: {error}") from error
    return _Top(delimiter, rows[0], _is_heading(rows[0], rows[1:]))


def _is_heading(cells: list[str], below: list[list[str]]) -> bool | None:
    if not all(_is_value(cell) for cell in cells):
        return True
    places = [str(i) for i in range(len(cells))]
    if cells not in (places, ["", *places[:-1]]):  # as pandas numbers columns; its index has no name
        return False
    if len(cells) > 2:
        return True
    values = [cell.strip() for row in below for cell in row if cell.strip()]
    if not values:
        return None if below else False
    return None if any(re.fullmatch(r"[+-]?\d+", value) for value in values) else True


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in _VALUES
    return True
