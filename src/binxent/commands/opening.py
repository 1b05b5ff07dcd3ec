"""Opens the files of a report, and finds out whether the first line of a .csv names its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binxent.commands.shapes import OF_CLASS
from binxent.files import Table, TableError, open_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import ExitStack


def _unclear(table: Table) -> TableError:
    return TableError(
        f"{table.path}: its first line, {table.unclear}, may name the columns or be a row; say --header or --no-header"
    )


def open_all(files: ExitStack, paths: Mapping[str, str | None], header: bool | None) -> dict[str, Table]:
    """Opens the files that are given. Where a first line is unclear, the number of rows of another file settles it.

    Args:
        files: closes them.
        paths: by the name of the argument; ``predictions`` and ``labels`` are among them.
        header: as ``--header`` has it.
    """
    tables = {
        name: files.enter_context(open_table(path, header=header)) for name, path in paths.items() if path is not None
    }
    if all(table.unclear is None for table in tables.values()):
        return tables
    by_rows = [tables[name] for name in ("predictions", "labels", "sample_weight", "mask") if name in tables]
    clear = next((table for table in by_rows if table.unclear is None), None)
    if clear is None:
        raise _unclear(tables["predictions"])
    rows = clear.count_rows()
    for name, table in tables.items():
        if table.unclear is None:
            continue
        lines = table.count_rows()
        expected = _expected_rows(name, table, tables["predictions"].columns, rows)
        if (lines in expected) == (lines - 1 in expected):
            raise _unclear(table)
        if lines - 1 in expected:
            tables[name] = files.enter_context(open_table(table.path, header=True))
    return tables


def _expected_rows(name: str, table: Table, labels: int, rows: int) -> Collection[int]:
    if name in OF_CLASS:
        return {1} if table.columns == labels else {labels}
    return {1, rows} if name == "weight" else {rows}
