"""Prints the table, with one row for each label. Its own text is ASCII, as the output may have any encoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from binxent.commands.shown import printable, shortened
from binxent.files import plural
from binxent.report import measures

if TYPE_CHECKING:
    from binxent.arrays import Array
    from binxent.report import Report

WIDE = 105  # columns of a terminal that has room for every column and the longer headings
_LEAST_LABEL = 10  # cells of the first column
_FRAME, _GAP = 2, 2  # cells beside the columns, and between two of them
_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)  # SIMPLE_HEAD's lines
_WORDS = ("base rate", "loss", "base-rate loss", "ECE", "precision", "recall", "AP")
_SHORT_WORDS = ("base", "loss", "base loss", "ECE", "P", "recall", "AP")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3%}" if 0 < value < 0.001 else f"{value:.1%}"


def _figures(values: dict[str, float | int | None], counts: tuple[str, ...]) -> list[str]:
    return [
        *(f"{values[count]:,}" for count in counts),
        _share(values["base_rate"]),
        _number(values["loss"], 4),
        _number(values["base_rate_loss"], 4),
        _number(values["calibration_error"], 4),
        _number(values["precision"], 3),
        _number(values["recall"], 3),
        _number(values["average_precision"], measures.digits(values["average_precision_error"])),
    ]


def _is_worse(values: dict[str, float | int | None]) -> bool:
    loss, constant = values["loss"], values["base_rate_loss"]
    return loss is not None and constant is not None and loss > constant


def _chosen(loss: Array, limit: int) -> tuple[Array, str]:
    """The labels that are shown, and what the caption says about the others."""
    if len(loss) <= limit:
        return np.arange(len(loss)), ""
    order = np.argsort(-np.nan_to_num(loss, nan=-np.inf), kind="stable")
    return order[:limit], f"; the {plural(limit, 'label')} with the greatest loss: --json has all"


def show(report: Report, limit: int) -> None:
    """Prints the table. Of more labels than ``limit`` it has those with the greatest losses.

    A narrow terminal gets no counts, and then shorter names. Figures always stay; if they do not fit, lines wrap.
    """
    console = Console()
    scores = report.scores()
    overall, columns = report.overall(scores), scores.as_dict()
    chosen, rest = _chosen(scores.loss, limit)
    rows = [(report.names[i], {key: values[i] for key, values in columns.items()}) for i in chosen]
    if len(report.names) > 1:
        rows.append(("all (mean)", overall))

    wide = console.width >= WIDE
    counts = ("known", "positive") if wide else ()
    headings = [*counts, *(_WORDS if wide else _SHORT_WORDS)]
    if report.reduction != "mean":
        headings[headings.index("loss")] = f"loss ({report.reduction})"
    figures = [_figures(values, counts) for _, values in rows]
    widths = [max(map(len, column)) for column in zip(headings, *figures, strict=True)]
    taken = _FRAME + sum(_GAP + width for width in widths)
    room = max(_LEAST_LABEL, console.width - taken)
    names = [shortened(printable(name, console.encoding), room) for name, _ in rows]
    label_width = max(_LEAST_LABEL, *map(cell_len, names))
    console.width = max(console.width, label_width + taken)

    error = overall["average_precision_error"]
    within = f"; AP within {error:.1g}" if error else ""
    table = Table(
        title=f"{plural(report.rows, 'row')}, {plural(len(report.names), 'label')}",
        caption=f"predicted: probability > {report.threshold:g}{within}{rest}",
        box=box.SIMPLE_HEAD if console.encoding.startswith("utf") else _ASCII_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("label", no_wrap=True, min_width=label_width)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    at_loss = len(counts) + 1
    for number, (name, cells, (_, values)) in enumerate(zip(names, figures, rows, strict=True)):
        if number == len(chosen):
            table.add_section()
        red = [Text(cell, "red" if i == at_loss and _is_worse(values) else "") for i, cell in enumerate(cells)]
        table.add_row(Text(name), *red)
    console.print(table)
