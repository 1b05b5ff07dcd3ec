"""``python -m benchmarks``: measures speed and memory beside every framework's own losses, and checks the targets.

Each framework and setting has a process of its own, in which our loss and the others alternate. The figures go to a CSV
file with the machine's facts, and the tables and charts of the documentation are made from that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS, ROOT, grid, imports, processes, report, results, targets
from benchmarks.frameworks import OURS
from benchmarks.machine import cores, facts
from benchmarks.results import Row
from benchmarks.timing import Rounds, Times

console = Console(highlight=False)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    processes.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="only what the targets ask for, within three minutes")
    parser.add_argument(
        "--check", action="store_true", help="fail, naming each, if a target is missed or was not measured"
    )
    parser.add_argument(
        "--results", type=Path, help=f"folder; default {RESULTS.relative_to(ROOT)}, with --quick build/benchmarks"
    )
    options = parser.parse_args(arguments)
    if options.results is None:
        options.results = ROOT / "build" / "benchmarks" if options.quick else RESULTS
    return options


def import_time(quick: bool) -> Row:
    times = imports.measure(Rounds(2, 7, 15) if quick else Rounds(10, 15, 41))
    ours, plain = (times[name].seconds for name in ("import binxent", "plain Python"))
    above = Times(tuple(a - b for a, b in zip(ours, plain, strict=True))).spread()
    return {
        "quantity": "import",
        "framework": "python",
        "way": "import binxent",
        "unit": "s",
        **vars(above),
        "rounds": len(ours),
        **facts(),
    }


def comparison(rows: list[Row]) -> Table:
    threads = max((row["threads"] for row in rows if row.get("threads")), default=0)
    table = Table(
        title=f"[4096, 4096], mean, forward + backward, {threads} threads, a new gradient at each step",
        caption="median of a step; how many times ours, round by round, and its quartiles",
    )
    for heading in ("framework", "case", "way"):
        table.add_column(heading)
    for heading in ("ms", "times ours", "quartiles"):
        table.add_column(heading, justify="right")
    for framework in grid.FRAMEWORKS:
        for case, conditions in targets.CASES.items():
            chosen = results.HEADLINE | conditions
            found = results.select(rows, **chosen, framework=framework, threads=threads)
            for row in found:
                ratio, spread = "", ""
                if row.get("ratio") and row["way"] != row["against"]:
                    ratio, spread = f"{row['ratio']:.2f}", f"{row['ratio_lower']:.2f} … {row['ratio_upper']:.2f}"
                table.add_row(
                    framework,
                    case,
                    row["way"],
                    f"{1e3 * row['median']:.2f}",
                    ratio,
                    spread,
                    end_section=row is found[-1],
                )
    return table


def verdicts(rows: list[Row]) -> Table:
    table = Table(title="Targets", caption="beyond: further than the target's stretch")
    for heading in ("target", "bound", "measured", "verdict"):
        table.add_column(heading, justify="left" if heading in ("target", "verdict") else "right")
    styles = {"missed": "red", "not measured": "yellow", "beyond": "bold green", "met": "green"}
    for target in targets.of(rows):
        measured = "" if target.measured is None else f"{target.measured:.3g} {target.unit}"
        bound = f"{'≤' if target.at_most else '≥'} {target.bound:g} {target.unit}"
        table.add_row(target.name, bound, measured, target.verdict, style=styles[target.verdict])
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    frameworks = options.frameworks or grid.FRAMEWORKS
    plan = list((grid.quick if options.quick else grid.full)(frameworks, cores()))
    machine = facts()
    console.print("\n".join(f"{name}: {fact}" for name, fact in machine.items()))
    jobs = [
        processes.Job(
            f"{process.framework}, {process.threads} threads, {process.memory}, {process.quantity}",
            dataclasses.asdict(process),
            process.threads,
            grid.MEMORY[process.memory],
            len(process.cases),
        )
        for process in plan
    ]
    rows, broken = processes.gather(jobs, dict(options.python), console)
    rows.append(import_time(options.quick))

    file = options.results / "speed.csv"
    results.write(file, rows)
    report.write(options.results)
    rows = results.read(file)
    console.print(comparison(rows))
    console.print(verdicts(rows))
    console.print(f"written: {file}")
    broken += dict.fromkeys(
        f"{row['framework']}: {row['way']}, {row['dtype']}, {row['options']}: {row['error']}"
        for row in rows
        if row["way"].startswith(OURS) and row["error"]
    )
    for failure in broken:
        console.print(f"broken: {failure}", style="red")
    asked = {*frameworks, "python"}
    missed = [target.name for target in targets.of(rows) if target.framework in asked and not target.met]
    if options.check and missed:
        console.print(f"missed: {'; '.join(missed)}", style="red")
    return 1 if broken or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
