"""The table of a report, with one row for each label: as the command prints it, and as a repr shows it.

Its own text is ASCII, as the output may have any encoding.
"""

from __future__ import annotations

import io
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
from binxent.label_names import numbered
from binxent.report import measures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from binxent.arrays import Array
    from binxent.label_counts import LabelCounts
    from binxent.report import Report, Scores

    Figures = dict[str, float | int | None]

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


def _chosen(loss: Array, limit: int) -> Array:
    """The labels that are shown: of more than ``limit``, those with the greatest losses."""
    if len(loss) <= limit:
        return np.arange(len(loss))
    return np.argsort(-np.nan_to_num(loss, nan=-np.inf), kind="stable")[:limit]


def _print(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str | Text]]],
    *,
    title: str,
    caption: str,
    summary: int,
    framed: bool,
) -> None:
    """Prints rows of a name and cells. Cells always stay as they are; names are shortened, and then lines wrap.

    ``summary`` is how many rows stand below a line, and ``framed`` whether lines are drawn as such.
    """
    widths = [max(map(len, column)) for column in zip(headings, *(cells for _, cells in rows), strict=True)]
    taken = _FRAME + sum(_GAP + width for width in widths)
    room = max(_LEAST_LABEL, console.width - taken)
    names = [shortened(printable(name, console.encoding), room) for name, _ in rows]
    label_width = max([_LEAST_LABEL, *map(cell_len, names)])
    console.width = max(console.width, label_width + taken)
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD if framed else _ASCII_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("label", no_wrap=True, min_width=label_width)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for number, (name, (_, cells)) in enumerate(zip(names, rows, strict=True)):
        if number == len(rows) - summary:
            table.add_section()
        table.add_row(Text(name), *(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    console.print(table)


def _print_scores(
    console: Console,
    names: Sequence[str],
    columns: dict[str, list[float | int | None]],
    chosen: Array,
    overall: Figures | None,
    *,
    reduction: str = "mean",
    title: str,
    caption: str,
    framed: bool,
) -> None:
    """Prints the figures of the chosen labels. A narrow console gets no counts, and then shorter headings."""
    rows = [(names[i], {key: values[i] for key, values in columns.items()}) for i in chosen]
    if overall is not None:
        rows.append(("all (mean)", overall))
    wide = console.width >= WIDE
    counts = ("known", "positive") if wide else ()
    headings = [*counts, *(_WORDS if wide else _SHORT_WORDS)]
    if reduction != "mean":
        headings[headings.index("loss")] = f"loss ({reduction})"
    at_loss = len(counts)

    def cells(values: Figures) -> list[str | Text]:
        red = "red" if _is_worse(values) else ""
        return [Text(cell, red) if i == at_loss else cell for i, cell in enumerate(_figures(values, counts))]

    shown = [(name, cells(values)) for name, values in rows]
    summary = int(overall is not None)
    _print(console, headings, shown, title=title, caption=caption, summary=summary, framed=framed)


def _print_report(console: Console, report: Report, limit: int, others: str, *, name: str = "", framed: bool) -> None:
    """``others`` says where the labels are that are not shown."""
    scores = report.scores()
    overall = report.overall(scores)
    chosen = _chosen(scores.loss, limit)
    error = overall["average_precision_error"]
    within = f"; AP within {error:.1g}" if error else ""
    rest = f"; the {plural(limit, 'label')} with the greatest loss: {others}" if len(chosen) < len(scores.loss) else ""
    options = str(report.loss_options)
    _print_scores(
        console,
        report.names,
        scores.as_dict(),
        chosen,
        overall if len(report.names) > 1 else None,
        reduction=report.reduction,
        title=f"{name}{plural(report.rows, 'row')}, {plural(len(report.names), 'label')}",
        caption=f"predicted: probability > {report.threshold:g}{f'; loss: {options}' if options else ''}{within}{rest}",
        framed=framed,
    )


def show(report: Report, limit: int) -> None:
    """Prints the table. Of more labels than ``limit`` it has those with the greatest losses.

    A narrow terminal gets no counts, and then shorter names. Figures always stay; if they do not fit, lines wrap.
    """
    console = Console()
    _print_report(console, report, limit, "--json has all", framed=console.encoding.startswith("utf"))


_SHOWN = 10  # labels that a repr shows


def _page() -> Console:
    """A console whose lines become a repr: as wide as the terminal, without colours."""
    return Console(file=io.StringIO(), color_system=None)


def _text(page: Console) -> str:
    assert isinstance(page.file, io.StringIO)
    title, *lines = page.file.getvalue().splitlines()
    return "\n".join([title.strip(), *map(str.rstrip, lines)]).rstrip()


def of_report(report: Report) -> str:
    """The table as the repr of a report."""
    page = _page()
    _print_report(page, report, _SHOWN, "scores() has all", name="Report: ", framed=False)
    return _text(page)


def of_scores(scores: Scores) -> str:
    """The table as the repr of scores, which know their labels by number."""
    page, labels = _page(), len(scores.loss)
    chosen = _chosen(scores.loss, _SHOWN)
    rest = "" if len(chosen) == labels else f"the {_SHOWN} labels with the greatest loss: as_dict() has all"
    given = (page, numbered(labels), scores.as_dict(), chosen, None)
    _print_scores(*given, title=f"Scores: {plural(labels, 'label')}", caption=rest, framed=False)
    return _text(page)


def of_counts(counts: LabelCounts) -> str:
    """The table as the repr of counts. Of many labels it has those with the fewest positives."""
    page, labels = _page(), len(counts.names)
    positives, negatives = counts.positives, counts.negatives
    chosen = _chosen(-positives.astype(np.float64), _SHOWN)
    rest = "" if len(chosen) == labels else f"the {_SHOWN} labels with the fewest positives: as_dict() has all"
    rates = measures.ratio(positives, positives + negatives)

    def cell(count: float) -> str:
        return f"{count:,}" if isinstance(count, int) else f"{count:,.6g}"

    rows = [
        (counts.names[i], [cell(positives[i].item()), cell(negatives[i].item()), _share(float(rates[i]))])
        for i in chosen
    ]
    title = f"LabelCounts: {plural(counts.rows, 'row')}, {plural(labels, 'label')}"
    headings = ("positives", "negatives", "base rate")
    _print(page, headings, rows, title=title, caption=rest, summary=0, framed=False)
    return _text(page)
