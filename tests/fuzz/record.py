"""Writes what the attacks have found into benchmarks/results/attacks.csv, from which docs/trust.md takes its table."""

from __future__ import annotations

import fcntl
import math
import os
from typing import Any

from benchmarks import RESULTS, machine, results

ATTACKS = RESULTS / "attacks.csv"
COLUMNS = ("attack", "what", "calls", "wrong", "seconds", "how")


def record(attack: str, what: str, *, calls: int, wrong: int, seconds: float, how: str = "") -> None:
    """Writes the row of this attack anew; ``how`` is the command or seed that does it again."""
    row = {"attack": attack, "what": what, "calls": calls, "wrong": wrong, "seconds": math.ceil(seconds), "how": how}
    folder = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # several attacks may run at once
        rows: list[dict[str, Any]] = results.read(ATTACKS) if ATTACKS.exists() else []
        kept = [old for old in rows if (old["attack"], old["what"]) != (attack, what)]
        ordered = sorted([*kept, {**row, **machine.facts()}], key=lambda row: (row["attack"], row["what"]))
        results.write(ATTACKS, ordered, COLUMNS)
    finally:
        os.close(folder)
