"""Tables in files, read a part at a time: .npy, .npz, .csv and .parquet.

A part is made by a function, so that whoever works on it also reads it, in the same thread and cache. Memory holds the
parts that are being worked on, and nothing else.
"""

from __future__ import annotations

import csv
import mmap
import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from binxent.arrays import Array

__all__ = ["SUFFIXES", "Table", "TableError", "open_table", "read_sparse"]

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


# All pages in one call, and not one at a time when they are first read.
_MAP_AT_ONCE = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)


class TableError(ValueError):
    """A file that cannot be read as a table: the message says which, and why."""


@dataclass(frozen=True)
class Table:
    """An open file.

    Attributes:
        path: as it was given.
        rows: how many there are, or None where only reading tells.
        columns: how many there are.
        names: of the columns, or None where the file has none.
        flat: whether the file holds one dimension, and not a matrix of one column.
        parts: called with a number of rows, gives functions that each read the next so many rows, as a matrix; the
            last may be shorter. The functions may be called in any thread, and in any order.
    """

    path: str
    rows: int | None
    columns: int
    names: list[str] | None
    flat: bool
    parts: Callable[[int], Iterator[Callable[[], Array]]]

    def read(self) -> Array:
        """All of it."""
        parts = [load() for load in self.parts(1 << 16)]
        return np.concatenate(parts) if parts else np.empty((0, self.columns))


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[Table]:
    """Opens a table; one of several arrays in a .npz is named behind a colon: ``run.npz:logits``.

    Raises:
        TableError: the file is missing, of another kind, or not a table of numbers.
        ImportError: .csv and .parquet need pyarrow.
    """
    shown = os.fspath(path)
    member = None
    head, colon, tail = shown.rpartition(":")
    if colon and head.lower().endswith(".npz"):
        shown, member = head, tail
    suffix = Path(shown).suffix.lower()
    try:
        if suffix == ".npy":
            with open(shown, "rb") as file:
                yield _npy(shown, file)
        elif suffix == ".npz":
            with zipfile.ZipFile(shown) as archive:
                yield _npz(shown, archive, member)
        elif suffix == ".csv":
            yield _csv(shown)
        elif suffix == ".parquet":
            yield _parquet(shown)
        else:
            raise TableError(f"{shown}: the name does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    except TableError:
        raise
    except FileNotFoundError:
        raise TableError(f"{shown}: no such file") from None
    except OSError as error:
        raise TableError(f"{shown}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise TableError(f"{shown}: not a .npz file ({error})") from error


def _layout(shown: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, from the header; the file is left at the first element."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise TableError(f"{shown}: not a .npy file ({error})") from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise TableError(f"{shown}: holds {dtype}; expected numbers or bool")
    if len(shape) not in (1, 2):
        raise TableError(f"{shown}: shape {shape}; expected [rows, labels] or [rows]")
    return shape, fortran and len(shape) == 2, dtype


def _npy(shown: str, file: Any) -> Table:
    shape, fortran, dtype = _layout(shown, file)
    begin, descriptor = file.tell(), file.fileno()
    rows, columns = shape[0], shape[1] if len(shape) == 2 else 1
    needed = begin + rows * columns * dtype.itemsize
    if os.fstat(descriptor).st_size < needed:
        raise TableError(f"{shown}: ends early, after {os.fstat(descriptor).st_size} of {needed} bytes")

    def window(element: int, count: int) -> Array:
        """Elements of the file's own memory: to map them costs a quarter of reading them. Their pages are given back
        with the array."""
        offset = begin + element * dtype.itemsize
        aligned = offset - offset % mmap.ALLOCATIONGRANULARITY
        size = offset - aligned + count * dtype.itemsize
        pages = mmap.mmap(descriptor, size, _MAP_AT_ONCE, mmap.PROT_READ, offset=aligned)
        return np.frombuffer(pages, dtype, count, offset - aligned)

    def load(first: int, count: int) -> Array:
        if rows * columns == 0:
            return np.empty((count, columns), dtype)
        if fortran:
            part = np.stack([window(column * rows + first, count) for column in range(columns)], axis=1)
        else:
            part = window(first * columns, count * columns).reshape(count, columns)
        return _native(part)

    def parts(size: int) -> Iterator[Callable[[], Array]]:
        for first in range(0, rows, size):
            yield partial(load, first, min(size, rows - first))

    return Table(shown, rows, columns, None, len(shape) == 1, parts)


def _native(part: Array) -> Array:
    return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


def _npz(shown: str, archive: zipfile.ZipFile, member: str | None) -> Table:
    arrays = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if member is None and len(arrays) != 1:
        choice = f"{shown}:{arrays[0]}" if arrays else "none"
        raise TableError(f"{shown}: holds the arrays {', '.join(arrays) or 'none'}; name one, as {choice}")
    if member is not None and member not in arrays:
        raise TableError(f"{shown}: holds no array {member!r}, but {', '.join(arrays)}")
    entry = f"{member if member is not None else arrays[0]}.npy"
    with archive.open(entry) as file:
        shape, fortran, dtype = _layout(f"{shown}:{entry.removesuffix('.npy')}", file)
    if fortran:
        raise TableError(f"{shown}: {entry} is stored by columns; save it with numpy.ascontiguousarray, or as .npy")
    rows, columns = shape[0], shape[1] if len(shape) == 2 else 1

    def parts(size: int) -> Iterator[Callable[[], Array]]:
        with archive.open(entry) as file:
            _layout(shown, file)
            for first in range(0, rows, size):
                count = min(size, rows - first)
                data = file.read(count * columns * dtype.itemsize)
                if len(data) < count * columns * dtype.itemsize:
                    raise TableError(f"{shown}: {entry} ends early")
                part = np.frombuffer(data, dtype).reshape(count, columns)
                yield partial(_native, part)

    return Table(shown, rows, columns, None, len(shape) == 1, parts)


def read_sparse(path: str | os.PathLike[str]) -> Any | None:
    """The matrix that ``scipy.sparse.save_npz`` has written, in memory as a whole; None if the file is of another kind.

    Raises:
        TableError: SciPy, which reads it, is missing.
    """
    if Path(path).suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if not {"format.npy", "shape.npy", "data.npy"} <= set(archive.namelist()):
            return None
    try:
        from scipy import sparse
    except ImportError as error:
        raise TableError(f"{os.fspath(path)}: is a sparse matrix; to read it, run: pip install scipy") from error
    return sparse.load_npz(path)


def _regrouped(arrays: Iterator[Array], size: int) -> Iterator[Callable[[], Array]]:
    """Batches of whatever length as parts of one length, so that two files keep step."""
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


def _matrix(batch: Any) -> Array:
    """The columns of an Arrow batch, whose nulls are NaN."""
    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    columns = [c.astype(np.float64) if c.dtype == object else c for c in columns]  # bool with nulls
    return np.stack(columns, axis=1) if columns else np.empty((batch.num_rows, 0))


def _checked(shown: str, schema: Any) -> list[str]:
    import pyarrow

    for column in schema:
        kind = column.type
        number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        if not number:
            raise TableError(f"{shown}: column {column.name!r} holds {kind}; expected numbers")
    return [str(name) for name in schema.names]


def _csv(shown: str) -> Table:
    import pyarrow
    from pyarrow import csv as arrow_csv

    with open(shown, encoding="utf-8-sig", newline="") as file:
        line = file.readline()
    if not line.strip():
        raise TableError(f"{shown}: is empty")
    delimiter = next((mark for mark in ",;\t" if mark in line), ",")
    cells = next(csv.reader([line], delimiter=delimiter))

    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    headed = not all(is_number(cell) for cell in cells)

    def batches(types: dict[str, Any] | None) -> Any:
        # One thread, which tells the row of what it cannot read.
        return arrow_csv.open_csv(
            shown,
            read_options=arrow_csv.ReadOptions(use_threads=False, autogenerate_column_names=not headed),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(column_types=types),
        )

    try:
        with batches(None) as reader:
            schema = reader.schema
    except pyarrow.ArrowInvalid as error:
        raise TableError(f"{shown}: {_one_line(error)}") from error
    nulls = [pyarrow.types.is_null(column.type) for column in schema]
    schema = pyarrow.schema(
        [
            pyarrow.field(c.name, pyarrow.float64()) if null or pyarrow.types.is_integer(c.type) else c
            for c, null in zip(schema, nulls, strict=True)
        ]
    )
    names = _checked(shown, schema)

    def arrays() -> Iterator[Array]:
        try:
            with batches({column.name: column.type for column in schema}) as reader:
                for batch in reader:
                    yield _matrix(batch)
        except pyarrow.ArrowInvalid as error:
            raise TableError(f"{shown}: {_one_line(error)}") from error

    return Table(shown, None, len(names), names if headed else None, False, lambda size: _regrouped(arrays(), size))


def _parquet(shown: str) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(shown)
    except pyarrow.ArrowInvalid as error:
        raise TableError(f"{shown}: {_one_line(error)}") from error
    names = _checked(shown, file.schema_arrow)

    def arrays(size: int) -> Iterator[Array]:
        try:
            for batch in file.iter_batches(batch_size=size):
                yield _matrix(batch)
        except pyarrow.ArrowInvalid as error:
            raise TableError(f"{shown}: {_one_line(error)}") from error

    return Table(shown, file.metadata.num_rows, len(names), names, False, lambda size: _regrouped(arrays(size), size))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
