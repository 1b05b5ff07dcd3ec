"""``python -m benchmarks.report``: the tables, charts and README figures, from the committed CSV files alone."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS, ROOT, results, tables
from benchmarks.instructions.counts import COUNTS
from benchmarks.results import Row

README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by python -m benchmarks.report -->\n", "<!-- end of figures -->\n"


def rows(folder: Path, name: str) -> list[Row]:
    file = folder / f"{name}.csv"
    return results.read(file) if file.exists() else []


def readme_figures(speed: Sequence[Row], accuracy: Sequence[Row]) -> str:
    """What the README claims of speed, memory and accuracy."""
    caption = (
        "*How many times our time the others take (and their time), for forward and backward of the mean of 4096 "
        "× 4096 logits with a new gradient at each step: medians of rounds in which the two take turns. Our "
        "gradient lies in memory that is kept from the step before; with nothing kept, the system clears it anew. The "
        "most memory beyond the operands, in tensors of the logits' size, of which the gradient is one; with "
        f"`inplace_backward=` ours is {tables.in_place(speed)}. The worst error in float32 with hard targets, in ulp. "
        f"{tables.conditions(speed)} `nox -s bench` measures all of it anew.*"
    )
    return (
        "![How many times our time each framework takes](docs/figures/speed.svg)\n\n"
        f"{tables.overview(speed, accuracy)}\n"
        f"{textwrap.fill(caption, 120, break_on_hyphens=False)}\n\n"
        "![The worst error by how far the logit is on its target's side](docs/figures/tail.svg)\n\n"
        "[How it is measured, and what else was](docs/performance.md)\n"
    )


def all_tables(speed: Sequence[Row], accuracy: Sequence[Row], gpu: Sequence[Row] = ()) -> dict[str, str]:
    """Names and texts of what the documentation includes."""
    return dict(
        [
            *(tables.speed(speed) if speed else ()),
            *(tables.accuracy(accuracy) if accuracy else ()),
            *(tables.gpu(gpu) if gpu else ()),
            *tables.instructions(results.read(COUNTS)),
        ]
    )


def with_figures(readme: str, figures: str) -> str:
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README.name} lacks the line {BEGIN.strip()!r} or {END.strip()!r}")
    return f"{before}{begin}{figures}{end}{after}"


def write(folder: Path) -> None:
    """Of the committed results: into the documentation and the README. Of others: beside them."""
    from benchmarks import charts  # matplotlib, which the tables do without

    speed, accuracy, gpu = (rows(folder, name) for name in ("speed", "accuracy", "gpu"))
    committed = folder.resolve() == RESULTS.resolve()
    charts.draw(speed, accuracy, ROOT / "docs" / "figures" if committed else folder, gpu)
    (folder / "tables").mkdir(exist_ok=True)
    for name, text in all_tables(speed, accuracy, gpu).items():
        (folder / "tables" / f"{name}.md").write_text(text)
    if committed and speed and accuracy:
        README.write_text(with_figures(README.read_text(), readme_figures(speed, accuracy)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="default: the committed results")
    write(parser.parse_args(arguments).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
