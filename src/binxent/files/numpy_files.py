"""Reads NumPy's .npy and .npz files, and the sparse matrices that SciPy saves as .npz."""

from __future__ import annotations

import mmap
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent.files.table import Table, TableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from binxent.arrays import Array

# Maps all pages in one call, where the system can, and not each one when it is first read.
_MAP_AT_ONCE = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
_SPARSE = {"format.npy", "shape.npy", "data.npy"}  # what scipy.sparse.save_npz always writes


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


def npy(shown: str, file: Any) -> Table:
    shape, fortran, dtype = _layout(shown, file)
    begin, descriptor = file.tell(), file.fileno()
    rows, columns = shape[0], shape[1] if len(shape) == 2 else 1
    needed = begin + rows * columns * dtype.itemsize

    def check_size() -> None:
        if os.fstat(descriptor).st_size < needed:
            raise TableError(f"{shown}: ends early, after {os.fstat(descriptor).st_size} of {needed} bytes")

    check_size()

    def window(element: int, count: int) -> Array:
        """Maps elements of the file into memory, which costs a quarter of reading them. The pages are freed with the
        array."""
        offset = begin + element * dtype.itemsize
        aligned = offset - offset % mmap.ALLOCATIONGRANULARITY
        size = offset - aligned + count * dtype.itemsize
        pages = mmap.mmap(descriptor, size, _MAP_AT_ONCE, mmap.PROT_READ, offset=aligned)
        return np.frombuffer(pages, dtype, count, offset - aligned)

    def load(first: int, count: int) -> Array:
        if rows * columns == 0:
            return np.empty((count, columns), dtype)
        check_size()  # again: to read a page that the file has lost since would end the process
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


def npz(shown: str, archive: zipfile.ZipFile, member: str | None) -> Table:
    if _is_sparse(archive):
        if member is not None:
            raise TableError(f"{shown}: holds one sparse matrix; give {shown} alone, without :{member}")
        return _sparse(shown, archive)
    arrays = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if not arrays:
        raise TableError(f"{shown}: holds no array")
    if member is None and len(arrays) > 1:
        raise TableError(f"{shown}: holds the arrays {', '.join(arrays)}; name one, as {shown}:{arrays[0]}")
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


def _is_sparse(archive: zipfile.ZipFile) -> bool:
    return set(archive.namelist()) >= _SPARSE


def read_sparse(path: str | os.PathLike[str]) -> Any | None:
    """Returns the matrix that ``scipy.sparse.save_npz`` has saved, as a whole; None if the file is of another kind.

    Raises:
        TableError: SciPy, which reads it, is missing.
    """
    if Path(path).suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if not _is_sparse(archive):
            return None
    try:
        from scipy import sparse
    except ImportError as error:
        raise TableError(f"{os.fspath(path)}: is a sparse matrix; to read it, run: pip install scipy") from error
    return sparse.load_npz(path)


def _sparse(shown: str, archive: zipfile.ZipFile) -> Table:
    """The table of a sparse matrix, which is made dense a part at a time."""
    with archive.open("shape.npy") as file:
        shape = np.lib.format.read_array(file).tolist()
    if len(shape) != 2:
        raise TableError(f"{shown}: a sparse array of shape {tuple(shape)}; expected [rows, labels]")

    def parts(size: int) -> Iterator[Callable[[], Array]]:
        matrix: Any = read_sparse(shown)
        matrix = matrix.tocsr()
        for first in range(0, shape[0], size):
            yield partial(_dense, matrix, first, first + size)

    return Table(shown, shape[0], shape[1], None, False, parts)


def _dense(matrix: Any, first: int, last: int) -> Array:
    dense: Array = matrix[first:last].toarray()
    return dense
