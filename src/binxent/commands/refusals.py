"""Ends a command with one line where a file cannot be used, or where the native kernel is missing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec

import click

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Returns the command, with every TableError and MissingKernelError turned into click's refusal."""

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except (ValueError, RuntimeError) as error:
            # Imported here, so that `binxent --help` stays quick. Any other error is a bug with its traceback.
            from binxent.files import TableError
            from binxent.kernels import MissingKernelError

            if not isinstance(error, (TableError, MissingKernelError)):
                raise
            raise click.ClickException(str(error)) from error

    return run
