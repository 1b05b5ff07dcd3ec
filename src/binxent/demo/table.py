"""The table, with one row for each label. Its own text is ASCII, because the output may be a file of any encoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from binxent.demo.training import Run
    from binxent.label_counts import LabelCounts

WIDE = 77  # columns of a terminal that holds both trainings side by side, with these headings
HEADINGS = ("positives", "pos_weight", "loss", "precision", "recall")
NARROW_HEADINGS = ("pos.", "weight", "loss", "P", "recall")
FIGURES = {"loss": 3, "precision": 2, "recall": 2}  # the report's figures, and their decimals


def _number(value: float | None, digits: int) -> str:
    # A label that is never predicted has no precision (0/0). If no label has one, neither has the mean.
    return "-".rjust(digits + 2) if value is None or math.isnan(value) else f"{value:.{digits}f}"


def of(plain: Run, weighted: Run, counts: LabelCounts, width: int) -> Table:
    """Returns the table of two trainings.

    Args:
        plain: the training without pos_weight.
        weighted: the training with it.
        counts: the labels of the training images, from which pos_weight comes.
        width: of the terminal, in columns.
    """
    wide = width >= WIDE
    table = Table(
        title="on the test images: without " + ("| with pos_weight" if wide else "pos_weight; below, with it"),
        caption="positives: of the training images; loss: measured without pos_weight",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1) if wide else 0,
        pad_edge=False,
    )
    table.add_column("label")
    for heading in HEADINGS if wide else NARROW_HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)

    def pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
        for figure, digits in FIGURES.items():
            yield (" | " if wide else "\n").join(_number(figures[figure], digits) for figures in (before, after))

    positive = counts.positives / counts.rows
    columns = [run.report.scores().as_dict() for run in (plain, weighted)]
    for i, (label, share, p) in enumerate(zip(counts.names, positive, counts.pos_weight(), strict=True)):
        before, after = ({name: column[i] for name, column in scores.items()} for scores in columns)
        table.add_row(label, f"{share:.1%}", f"{p:.2f}", *pairs(before, after))
    table.add_section()
    table.add_row("mean", f"{positive.mean():.1%}", "", *pairs(plain.report.overall(), weighted.report.overall()))
    return table
