"""``python -m benchmarks.accuracy``: measures the error of every face and of every framework's own loss.

For each dtype, kind of target and region of the input: the worst and the mean error of loss and gradient, in ulp of the
exact result (of the larger of its two terms, where the target is soft); and of the mean over 10⁸ elements. The exact
result is the definition in a wider type, which is itself compared with mpmath first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import mpmath
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS, ROOT, grid, processes, report, results
from benchmarks.frameworks import OURS
from benchmarks.machine import cores
from benchmarks.results import Row
from benchmarks.ulps import KINDS, LOGITS, exact, inputs
from tests.operands import targets
from tests.reference import DTYPES, error, textbook_logits_loss, tolerance

console = Console(highlight=False)
GOOD = 0.01  # ulp: the most that the reference may be off


def textbook_gradient(x: float, y: float) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-mpmath.mpf(x))) - mpmath.mpf(y)


def truth(dtype: str, number: int = 300) -> float:
    """The worst error of the reference in ulp, against the textbook formula in 80 digits."""
    worst = 0.0
    for region in LOGITS:
        for kind in KINDS:
            rng = np.random.default_rng(11)
            x = inputs(region, False, dtype, rng)[:number]
            y = targets(kind, x, rng)
            found = exact(x, y)
            pairs = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
            for values, larger, function in (
                (found.loss, found.larger_loss, textbook_logits_loss),
                (found.gradient, found.larger_gradient, textbook_gradient),
            ):
                # Subtracted in mpmath and not in float64, whose rounding would be larger than the difference.
                off = [mpmath.mpf(str(v)) - function(*pair) for v, pair in zip(values, pairs, strict=True)]
                apart = error(np.array([float(o) for o in off]), np.zeros(number), larger, dtype)
                worst = max(worst, float(apart.max()))
    return worst


def allowed(row: Row) -> float | None:
    """The most that ours may be off; None where nothing is asked of the row."""
    if row["way"] != OURS or row["worst"] is None:
        return None
    if row["measured"].startswith("mean of"):
        return 1.0
    computed = tolerance(row["instruction set"], hard=row["target"] == "hard")
    # A half type's result is rounded once from float32, whose own error is 2¹³ or 2¹⁶ times smaller in these ulp.
    return {"float32": computed, "float64": computed, "float16": 0.501, "bfloat16": 0.501}[row["dtype"]]


def beyond(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        most = allowed(row)
        if most is not None and row["worst"] > most:
            names = ("framework", "loss", "dtype", "measured", "region", "target")
            yield f"{', '.join(row[name] for name in names)}: {row['worst']:.3g} ulp, {most:g} are allowed"


def ulp(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.2g}"


def certificate(rows: Sequence[Row]) -> Iterator[Table]:
    for loss in ("logits", "probabilities"):
        regions = list(dict.fromkeys(r["region"] for r in rows if r["loss"] == loss and r["measured"] == "loss"))
        for output in ("loss", "gradient"):
            table = Table(title=f"{output} from {loss}: worst / mean error in ulp")
            for heading in ("way", "dtype", "targets"):
                table.add_column(heading)
            for region in regions:
                table.add_column(region, justify="right")
            chosen = [r for r in rows if r["loss"] == loss and r["measured"] == output]
            for key in dict.fromkeys((r["framework"], r["way"], r["dtype"], r["target"]) for r in chosen):
                line = {r["region"]: r for r in chosen if (r["framework"], r["way"], r["dtype"], r["target"]) == key}
                cells = [f"{ulp(line[region]['worst'])} / {ulp(line[region]['mean'])}" for region in regions]
                table.add_row(f"{key[0]}: {key[1]}", key[2], key[3], *cells, end_section=key[2:] == ("float16", "soft"))
            yield table
    table = Table(title="mean in float32: error in ulp")
    means = [row for row in rows if row["measured"].startswith("mean of")]
    for heading in ("way", *dict.fromkeys(f"{r['measured']}, {r['region']}" for r in means)):
        table.add_column(heading)
    for key in dict.fromkeys((r["framework"], r["way"]) for r in means):
        table.add_row(f"{key[0]}: {key[1]}", *(ulp(r["worst"]) for r in means if (r["framework"], r["way"]) == key))
    yield table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    processes.add_arguments(parser)
    parser.add_argument("--elements", type=int, default=10**8, help="in the means; default 10⁸")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder; default {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args(arguments)

    for dtype in DTYPES:
        off = truth(dtype)
        console.print(f"the exact result for {dtype} is within {off:.2g} ulp of the textbook in 80 digits")
        if off > GOOD:
            console.print(f"which is more than {GOOD}: this machine's wider type is not wide enough", style="red")
            return 1

    frameworks = options.frameworks or grid.FRAMEWORKS
    jobs = [
        processes.Job(name, {"framework": name, "quantity": "accuracy", "elements": options.elements}, cores(), {}, 24)
        for name in frameworks
    ]
    rows, broken = processes.gather(jobs, dict(options.python), console)
    file = options.results / "accuracy.csv"
    results.write(file, rows, results.ACCURACY)
    report.write(options.results)
    rows = results.read(file)
    shown = [row for row in rows if row["worst"] is not None]
    for table in certificate(shown):
        console.print(table)
    for row in rows:
        if row["error"]:
            name = f"{row['framework']}: {row['way']}, {row['loss']}, {row['dtype']}"
            console.print(f"{name}: refused: {row['error']}", style="dim")
    worse = list(beyond(shown))
    for line in broken + worse:
        console.print(line, style="red")
    console.print(f"written: {file}")
    return 1 if broken or worse else 0


if __name__ == "__main__":
    sys.exit(main())
