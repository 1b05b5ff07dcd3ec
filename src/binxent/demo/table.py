"""The table: one row for each label. Its own text is ASCII, since it may be sent to a file of any encoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from binxent.demo.digits import LABELS

if TYPE_CHECKING:
    from binxent.demo.digits import Array
    from binxent.demo.training import Run

WIDE = 77  # what the table takes with these headings, and both trainings side by side
HEADINGS = ("positives", "pos_weight", "loss", "precision", "recall")
NARROW_HEADINGS = ("pos.", "weight", "loss", "prec.", "recall")


def _number(value: float, digits: int) -> str:
    # 0/0 is the precision of a label that is never predicted.
    return "-".rjust(digits + 2) if math.isnan(value) else f"{value:.{digits}f}"


def of(plain: Run, weighted: Run, targets: Array, pos_weight: Array, width: int) -> Table:
    """``targets`` are those of the training images, which ``pos_weight`` comes from; ``width`` is the terminal's."""
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

    def pair(without: float, with_: float, digits: int) -> str:
        return (" | " if wide else "\n").join((_number(without, digits), _number(with_, digits)))

    a, b = plain.scores, weighted.scores
    for i, label in enumerate(LABELS):
        table.add_row(
            label,
            f"{targets[:, i].mean():.1%}",
            f"{pos_weight[i]:.2f}",
            pair(a.loss[i], b.loss[i], 3),
            pair(a.precision[i], b.precision[i], 2),
            pair(a.recall[i], b.recall[i], 2),
        )
    table.add_section()
    table.add_row(
        "mean",
        f"{targets.mean():.1%}",
        "",
        pair(a.loss.mean(), b.loss.mean(), 3),
        pair(a.precision.mean(), b.precision.mean(), 2),
        pair(a.recall.mean(), b.recall.mean(), 2),
    )
    return table
