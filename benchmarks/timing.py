"""Ways to do a thing, measured in turn in one process, so that what slows the machine slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of every round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Each round runs every way once, beginning with another; a first round is not counted."""
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            ways[name]()
            taken = time.perf_counter() - start
            if turn:
                seconds[name].append(taken)
    return {name: Times(tuple(taken)) for name, taken in seconds.items()}
