"""Reads and writes the committed counts of each compiler, and finds those that have risen."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

COUNTS = Path(__file__).parent / "counts.csv"
MOST = 1.03  # times the committed figure

Counts = dict[str, float]


def committed(compiler: str, file: Path = COUNTS) -> Counts:
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        return {
            row["case"]: float(row["instructions per element"])
            for row in csv.DictReader(lines)
            if row["compiler"] == compiler
        }


def write(compiler: str, counts: Mapping[str, float], file: Path = COUNTS) -> None:
    """Writes a compiler's counts, and leaves those of other compilers."""
    rows: list[Sequence[object]] = []
    if file.exists():
        with file.open(newline="") as lines:
            rows = [tuple(row) for row in csv.reader(lines)][1:]
    rows = [row for row in rows if row[0] != compiler] + [(compiler, c, f"{n:.3f}") for c, n in counts.items()]
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("compiler", "case", "instructions per element"))
        writer.writerows(rows)


def risen(counts: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """A line for each case that has become too long, or that has no figure."""
    lines = [f"{case}: no committed figure" for case in counts if case not in before]
    return lines + [
        f"{case}: {n:.2f} instructions per element, {n / before[case] - 1:+.1%} over {before[case]:.2f}"
        for case, n in counts.items()
        if case in before and n > MOST * before[case]
    ]
