"""Times several ways alternately in one process, so that whatever slows the machine slows them all."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Step = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """How many rounds: until ``seconds`` are over, but at least ``least`` and at most ``most``."""

    seconds: float
    least: int
    most: int

    def number(self, seconds_of_one: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / seconds_of_one)))


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    lower: float  # quartiles
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, min(values), lower, upper)


@dataclass(frozen=True)
class Times:
    """Seconds that one step took, in every round."""

    seconds: tuple[float, ...]
    page_faults: float = 0.0  # of one step: many if its memory was fresh, few if it was reused

    def spread(self) -> Spread:
        return Spread.of(list(self.seconds))

    def over(self, other: Times) -> Spread:
        """The ratio to the other's time, round by round."""
        return Spread.of([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])


SHORTEST_ROUND = 2e-3  # seconds; a shorter step is repeated to last as long, so that the clock is exact enough


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_turn(ways: Mapping[str, Step], rounds: Rounds, clock: Callable[[], float] | None = None) -> dict[str, Times]:
    """Times the ways, by default by the clock on the wall. Each round runs all of them, and begins with another one.

    Two calls of each come first and are not counted. Neither is the first call of each turn, which may pay for what the
    way before has left behind, such as memory that its framework gives back in the background.
    """
    now = clock or time.perf_counter
    repeats = {}
    whole_round = 0.0
    for name, step in ways.items():
        step()
        start = now()
        step()
        taken = now() - start
        repeats[name] = max(1, int(SHORTEST_ROUND / taken))
        whole_round += taken * (1 + repeats[name])

    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    faults = dict.fromkeys(names, 0)
    number = rounds.number(whole_round)
    gc.collect()
    gc.disable()
    try:
        for turn in range(number):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                step, times = ways[name], repeats[name]
                step()
                before = page_faults()
                start = now()
                for _ in range(times):
                    step()
                taken = now() - start
                faults[name] += page_faults() - before
                seconds[name].append(taken / times)
    finally:
        gc.enable()
    return {name: Times(tuple(seconds[name]), faults[name] / (number * repeats[name])) for name in names}
