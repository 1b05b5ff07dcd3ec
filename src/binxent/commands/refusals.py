"""A file that cannot be used ends a command with one line."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec

import click

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except ValueError as error:
            # Here and not above: `binxent --help` is quick. Any other ValueError is a fault of our own.
            from binxent.files import TableError

            if not isinstance(error, TableError):
                raise
            raise click.ClickException(str(error)) from error

    return run
