"""Checks before a command's work that its output can be written, and writes it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def writable(suffixes: Sequence[str]) -> Callable[[click.Context, click.Parameter, str | None], Path | None]:
    """Returns a callback of an option, which checks that a file with one of these endings can be written there.

    The check leaves no file behind.
    """

    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
        if value is None:
            return None
        shown = f"'{click.format_filename(value)}'"
        try:
            path = Path(value).resolve()
            if path.is_dir():
                raise click.BadParameter(f"{shown} is a folder.")
            if path.suffix.lower() not in suffixes:
                raise click.BadParameter(f"{shown} does not end in {' or '.join(suffixes)}.")
            existed = path.exists()
            if existed and not path.is_file():  # opening a pipe would wait for a reader
                raise click.BadParameter(f"{shown} is not a regular file.")
            path.open("ab").close()
            if not existed:
                path.unlink()
        except OSError as error:
            raise click.BadParameter(f"cannot write {shown}: {error.strerror}.") from error
        return path

    return check


def write(path: Path, data: bytes) -> None:
    """Writes all of the file, or none of it."""
    try:
        path.write_bytes(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise click.ClickException(f"cannot write '{click.format_filename(path)}': {error.strerror}.") from error
