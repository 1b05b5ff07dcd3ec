"""The table: one row for each label. Its own text is ASCII, since it may be sent to a file of any encoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from binxent.report import Report

WIDE = 105  # what the table takes with every column and the longer headings


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3%}" if 0 < value < 0.001 else f"{value:.1%}"


def of(report: Report, limit: int, width: int) -> Table:
    """``limit``: of more labels, those with the greatest losses; ``width``: the terminal's, where it is narrow the
    counts go."""
    scores = report.scores()
    overall = report.overall(scores)
    chosen = np.arange(len(report.names))
    caption = f"predicted: probability > {report.threshold:g}"
    if overall["average_precision_error"]:
        caption += f"; AP within {overall['average_precision_error']:.1g}"
    if len(chosen) > limit:
        order = np.argsort(-np.nan_to_num(scores.loss, nan=-np.inf), kind="stable")
        chosen = order[:limit]
        caption += f"; the {limit} labels with the greatest losses: --json has all"
    wide = width >= WIDE
    table = Table(
        title=f"{report.rows:,} rows, {len(report.names):,} label{'s' * (len(report.names) > 1)}",
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("label", no_wrap=True, min_width=10 if wide else 6)
    loss = "loss" if report.reduction == "mean" else f"loss ({report.reduction})"
    counts = ("known", "positive") if wide else ()
    words = ("base rate", loss, "base-rate loss", "ECE", "precision", "recall", "AP")
    narrow = ("rate", loss, "of rate", "ECE", "prec.", "recall", "AP")
    for heading in (*counts, *(words if wide else narrow)):
        table.add_column(heading, justify="right", no_wrap=True)

    def row(name: str | Text, values: dict[str, float | int | None]) -> None:
        better = values["loss"] is not None and values["base_rate_loss"] is not None
        worse = better and values["loss"] > values["base_rate_loss"]  # type: ignore[operator]
        table.add_row(
            name,
            *(f"{values[count]:,}" for count in counts),
            _share(values["base_rate"]),
            Text(_number(values["loss"], 4), style="red" if worse else ""),
            _number(values["base_rate_loss"], 4),
            _number(values["calibration_error"], 4),
            _number(values["precision"], 3),
            _number(values["recall"], 3),
            _number(values["average_precision"], 4),
        )

    columns = scores.as_dict()
    for i in chosen:
        row(Text(report.names[i]), {key: values[i] for key, values in columns.items()})
    if len(report.names) > 1:
        table.add_section()
        row("all (mean)", overall)
    return table
