"""Draws a report: how far probabilities are calibrated, and what each label gains over its base rate."""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from binxent.commands.shown import printable, shortened
from binxent.files import plural
from binxent.report import measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from binxent.report import Report, Scores

# Both colours are from Okabe and Ito's palette, which colour-blind readers can tell apart.
OURS, CONSTANT, GREY = "#0072B2", "#D55E00", "#555555"
WORSE = "#9C1C6B"  # of a label whose loss is above that of its base rate
MOST_ROWS = 32  # up to so many labels each has a row with its name; more are a curve
MOST_LINES = 12  # up to so many labels each has its own line of calibration
FEW = 50  # elements: with fewer the share of a label's positives in a bin is mostly chance

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "text.parse_math": False,  # a label may hold a $
}
PERCENT = PercentFormatter(1, decimals=0, symbol=" %")


def _calibration(axes: Axes, below: Axes, report: Report) -> None:
    count, probability, target = report.calibration()
    if 1 < len(count) <= MOST_LINES:
        for n, p, y in zip(count, probability, target, strict=True):
            enough = n >= FEW
            axes.plot(p[enough] / n[enough], y[enough] / n[enough], color=GREY, linewidth=0.8, alpha=0.5)
    n, p, y = count.sum(axis=0), probability.sum(axis=0), target.sum(axis=0)
    there = n > 0
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(p[there] / n[there], y[there] / n[there], color=OURS, linewidth=1.8)
    axes.scatter(p[there] / n[there], y[there] / n[there], s=26, color=OURS, zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylabel("share that is positive")
    axes.set_title("Reliability")
    handles = [Line2D([], [], marker="o", markersize=5, color=OURS, linewidth=1.8, label="all labels together")]
    if len(count) == 1:
        handles[0].set_label("predictions, in bins of probability")
    elif len(count) <= MOST_LINES:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, alpha=0.6, label="each label"))
    handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="calibrated"))
    axes.legend(handles=handles, loc="upper left")
    axes.tick_params(axis="x", labelbottom=False)

    edges = np.linspace(0, 1, len(n) + 1)
    below.bar(edges[:-1], n / max(1, n.sum()), width=np.diff(edges), align="edge", color=OURS, alpha=0.75)
    below.set_yscale("symlog", linthresh=1e-3, linscale=0.4)
    below.set_ylim(0, 1)
    below.set_yticks([0, 0.001, 0.01, 0.1, 1], ["0", "0.1 %", "1 %", "10 %", "100 %"])
    below.set_xlim(0, 1)
    below.xaxis.set_major_formatter(PERCENT)
    below.set_xlabel("predicted probability")
    below.set_ylabel("share of\npredictions")


def _losses(axes: Axes, report: Report, scores: Scores) -> None:
    """Draws the labels by their gain: a loss alone ranks labels by how rare they are."""
    loss, constant = scores.loss, scores.base_rate_loss
    gain = constant - loss
    order = np.argsort(np.nan_to_num(gain, nan=np.inf, posinf=np.inf), kind="stable")
    worse = gain < 0
    finite = np.isfinite(loss)
    measure = "loss (nats)" if report.reduction == "mean" else f"loss ({report.reduction})"
    count = plural(int(worse.sum()), "label")
    axes.set_title("Loss" if len(order) == 1 else "Loss of each label, those that gain least first")
    marks: list[dict[str, Any]]  # of the labels, and of those that are worse
    base: dict[str, Any]
    if len(order) <= MOST_ROWS:
        rows = np.arange(len(order))
        axes.hlines(rows, np.minimum(loss, constant)[order], np.maximum(loss, constant)[order], color=GREY, linewidth=1)
        axes.plot(constant[order], rows, "|", color=CONSTANT, markersize=12, markeredgewidth=2)
        axes.plot(np.where(finite, loss, np.nan)[order], rows, "o", color=OURS, markersize=6)
        shown = np.where(worse & finite, loss, np.nan)[order]
        axes.plot(shown, rows, "X", color=WORSE, markersize=8)
        names = [_short(report.names[i]) + ("" if finite[i] else "  (infinite)") for i in order]
        axes.set_yticks(rows, names)
        for text, i in zip(axes.get_yticklabels(), order, strict=True):
            text.set_color(WORSE if worse[i] else "black")
        room = 4 if len(order) < 4 else 0  # a label or two would otherwise fill the height
        axes.set_ylim(len(order) - 0.4 + 0.05 * len(order) + room / 2, -0.6 - room / 2)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", left=False)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel(measure)
        marks = [{"marker": "o", "color": OURS}, {"marker": "X", "color": WORSE, "markersize": 8}]
        base = {"marker": "|", "markersize": 12, "markeredgewidth": 2}
    else:
        # The gain, and not two curves of thousands of points: what lies below 0 is worse than a constant.
        ranks = np.arange(1, len(order) + 1)
        least = np.where(finite, gain, np.nan)[order]
        axes.fill_between(ranks, 0, least, where=least < 0, color=WORSE, linewidth=0)
        axes.fill_between(ranks, 0, least, where=least >= 0, color=OURS, linewidth=0, alpha=0.75)
        axes.axhline(0, color=CONSTANT, linewidth=2)
        axes.set_xlim(1, len(order))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("labels, those that gain least first")
        axes.set_ylabel(f"base-rate loss − {measure}")
        axes.set_title("What each label gains over its base rate")
        least_of_all = ", ".join(_short(report.names[i]) for i in order[:5])
        axes.annotate(f"least: {least_of_all}", (0.02, 0.02), xycoords="axes fraction", fontsize="small", color=GREY)
        marks = [{"marker": "s", "color": OURS}, {"marker": "s", "color": WORSE}]
        base = {"linewidth": 2}
    handles = [
        Line2D([], [], linestyle="", label="these predictions", **marks[0]),
        Line2D([], [], linestyle="" if "marker" in base else "-", color=CONSTANT, label="always the base rate", **base),
    ]
    if worse.any():
        handles.append(Line2D([], [], linestyle="", label=f"worse than the base rate: {count}", **marks[1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    corner: Literal["best", "upper left"] = "best" if len(order) <= MOST_ROWS else "upper left"
    axes.legend(handles=handles, loc=corner, frameon=True, framealpha=1, edgecolor="none")


def _short(name: str) -> str:
    return shortened(printable(name), 24)


def _number(value: float | None, digits: int = 4) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _picture(report: Report, source: str) -> Figure:
    rows = len(report.names) if len(report.names) <= MOST_ROWS else 0
    figure = Figure(figsize=(12, max(6.0, 2.0 + 0.22 * rows)), layout="constrained")
    axes = figure.subplot_mosaic("RL;CL", height_ratios=(3, 1), gridspec_kw={"wspace": 0.08})
    _calibration(axes["R"], axes["C"], report)
    scores = report.scores()
    _losses(axes["L"], report, scores)
    overall = report.overall(scores)
    precision = _number(overall["average_precision"], measures.digits(overall["average_precision_error"]))
    options = str(report.loss_options)
    facts = (
        f"{printable(source)}: {plural(report.rows, 'row')}, {plural(len(report.names), 'label')}. "
        f"Loss{f' ({options})' if options else ''} {_number(overall['loss'])}, "
        f"base-rate loss {_number(overall['base_rate_loss'])}; mean over labels: "
        f"ECE {_number(overall['calibration_error'])}, average precision {precision}; "
        f"above a probability of {report.threshold:g}, precision {_number(overall['precision'], 3)}, "
        f"recall {_number(overall['recall'], 3)}."
    )
    figure.supxlabel(textwrap.fill(facts, 170), x=0.01, ha="left", fontsize="small", color=GREY)
    return figure


def draw(report: Report, source: str, file_format: str) -> tuple[bytes, bool]:
    """Returns the bytes of a file in the format ``png``, ``svg`` or ``pdf``, and whether its font has every character.

    It needs no display.
    """
    file = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings(record=True) as caught:  # not the user's
        warnings.simplefilter("always")
        _picture(report, source).savefig(file, format=file_format, dpi=150)
    lacking = [warning for warning in caught if "missing from" in str(warning.message)]
    for warning in caught:
        if warning not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return file.getvalue(), not lacking
