"""``python -m benchmarks``: the kernel against the memory's own speed, with the facts of the machine.

``--check`` ends with exit code 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys

from rich.console import Console
from rich.table import Table

from benchmarks import streaming
from benchmarks.machine import facts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=streaming.__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="of which the median and the least are shown")
    parser.add_argument("--check", action="store_true", help=f"fail beyond {streaming.MOST} times the roof")
    parser.add_argument("--csv", type=argparse.FileType("w"), metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()

    table = Table(
        title=f"value and gradient, {list(streaming.SHAPE)} float32", caption="times the roof: ratio of the medians"
    )
    for heading in ("memory", "way", "median ms", "least ms", "times the roof"):
        table.add_column(heading, justify="left" if heading in ("memory", "way") else "right")
    rows, ratios = [], {}
    for memory, times in streaming.measure(arguments.rounds):
        fastest = times[streaming.roof(times)].median
        ratios[memory] = times[streaming.KERNEL].median / fastest
        for way, t in times.items():
            rows.append((memory, way, f"{1e3 * t.median:.2f}", f"{1e3 * t.least:.2f}", f"{t.median / fastest:.2f}"))
            table.add_row(*rows[-1], end_section=way == list(times)[-1])

    console = Console()
    machine = facts()
    for name, fact in machine.items():
        console.print(f"{name}: {fact}", highlight=False)
    console.print(table)
    if arguments.csv:
        writer = csv.writer(arguments.csv)
        writer.writerow(["memory", "way", "median ms", "least ms", "times the roof", *machine])
        writer.writerows([*row, *machine.values()] for row in rows)

    if arguments.check and ratios["fresh"] > streaming.MOST:
        console.print(
            f"{ratios['fresh']:.2f} times the roof into fresh memory; at most {streaming.MOST} was the target"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
