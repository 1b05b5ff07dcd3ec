"""Reads tables in .npy, .npz, .csv and .parquet files, a part at a time.

A part comes as a function that reads it, so that the thread that works on a part also reads it, into its own cache.
Memory holds only the parts that are being worked on; but a sparse .npz is read as a whole.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from binxent.files.numpy_files import npy, npz, read_sparse
from binxent.files.table import Table, TableError, column_names, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SUFFIXES", "Table", "TableError", "column_names", "open_table", "plural", "read_sparse"]

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


@contextmanager
def open_table(path: str | os.PathLike[str], *, header: bool | None = None) -> Iterator[Table]:
    """Opens a table; one of several arrays in a .npz is named behind a colon: ``run.npz:logits``.

    Args:
        path: of the file; a .csv may be compressed, as .csv.gz.
        header: whether the first line of a .csv names the columns; by default this is detected, and ``Table.unclear``
            tells where it cannot be.

    Raises:
        TableError: the file is missing, of another kind, or not a table of numbers.
        ImportError: .csv and .parquet need pyarrow.
    """
    shown = os.fspath(path)
    member = None
    head, colon, tail = shown.rpartition(":")
    if colon and head.lower().endswith(".npz"):
        shown, member = head, tail
    suffix = Path(shown.lower().removesuffix(".gz") if shown.lower().endswith(".csv.gz") else shown.lower()).suffix
    try:
        if suffix == ".npy":
            with open(shown, "rb") as file:
                yield npy(shown, file)
        elif suffix == ".npz":
            with zipfile.ZipFile(shown) as archive:
                yield npz(shown, archive, member)
        elif suffix == ".csv":
            from binxent.files.csv_files import read_csv

            yield read_csv(shown, header)
        elif suffix == ".parquet":
            from binxent.files.arrow_files import parquet

            yield parquet(shown)
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
