"""Shows a progress bar on stderr, if that is a terminal."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 0.1  # between two changes of the bar


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call, in any thread, with how much more is done."""
    if not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed:,.0f} {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    lock, done, shown = threading.Lock(), 0, time.monotonic()
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(what, total=total)

        def advance(more: int) -> None:
            nonlocal done, shown
            with lock:
                done += more
                if time.monotonic() - shown < _SECONDS:
                    return
                shown = time.monotonic()
            bars.update(bar, completed=done)

        yield advance
