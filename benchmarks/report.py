"""``python -m benchmarks.report``: writes tables, charts and the README's figures from the committed CSV files."""

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


def readme_figures(speed: Sequence[Row], accuracy: Sequence[Row], step: Sequence[Row]) -> str:
    """The README's block of figures."""
    caption = (
        "*Time relative to binxent (absolute time in brackets) for one forward and backward pass over 4096 × 4096 "
        "logits; medians, with the two alternating. binxent reuses the previous step's gradient buffer; 'fresh memory' "
        "shows the cost of a new one. Extra memory is the peak beyond the operands, in tensors of the logits' size, "
        "one of which is the gradient; with `inplace_backward=` it is "
        f"{tables.in_place(speed)}. Errors are the worst in float32 with hard targets, in ulp (units in the last "
        "place; 1.7·10⁷ means that no digit is right). "
        f"{tables.conditions(speed)} `nox -s bench` measures all of it again.*"
    )
    return (
        "![Time of each framework's loss by size, relative to binxent](docs/figures/gain.svg)\n\n"
        f"{tables.overview(speed, accuracy)}\n"
        f"{textwrap.fill(caption, 120, break_on_hyphens=False)}\n\n"
        f"{textwrap.fill(tables.step_in_words(step), 120, break_on_hyphens=False)}\n\n"
        "[How this was measured, and more measurements](docs/performance.md)\n"
    )


def all_tables(
    speed: Sequence[Row],
    accuracy: Sequence[Row],
    gpu: Sequence[Row] = (),
    attacks: Sequence[Row] = (),
    step: Sequence[Row] = (),
) -> dict[str, str]:
    """The tables that the documentation includes, by name."""
    return dict(
        [
            *(tables.speed(speed) if speed else ()),
            *(tables.accuracy(accuracy) if accuracy else ()),
            *(tables.gpu(gpu) if gpu else ()),
            *(tables.attacks(attacks) if attacks else ()),
            *(tables.step(step) if step else ()),
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
    """Writes the committed results into the documentation and the README, and any others beside themselves."""
    from benchmarks import charts  # here, because it needs matplotlib and the tables do not

    names = ("speed", "accuracy", "gpu", "attacks", "tail", "step")
    speed, accuracy, gpu, attacks, tail, step = (rows(folder, name) for name in names)
    committed = folder.resolve() == RESULTS.resolve()
    charts.draw(speed, tail, ROOT / "docs" / "figures" if committed else folder, gpu)
    (folder / "tables").mkdir(exist_ok=True)
    for name, text in all_tables(speed, accuracy, gpu, attacks, step).items():
        (folder / "tables" / f"{name}.md").write_text(text)
    if committed and speed and accuracy and step:
        README.write_text(with_figures(README.read_text(), readme_figures(speed, accuracy, step)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="default: the committed results")
    write(parser.parse_args(arguments).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
