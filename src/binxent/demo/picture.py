"""The picture: how the loss falls, and what pos_weight changes for each label."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from binxent.demo.digits import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from binxent.demo.digits import Array
    from binxent.demo.training import Run

# Both colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. The first marker is a ring:
# a smaller dot of the second series does not hide it where the two coincide.
PLAIN: dict[str, Any] = {"color": "#0072B2", "markersize": 9, "markerfacecolor": "white", "markeredgewidth": 2}
WEIGHTED: dict[str, Any] = {"color": "#D55E00", "markersize": 6}
TEST: dict[str, Any] = {"linewidth": 2}
TRAINING: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 2))}
GREY = "#555555"

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.wspace": 0.05,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


def _losses(axes: Axes, plain: Run, weighted: Run) -> None:
    epochs = range(len(plain.test_loss))
    for run, look in ((plain, PLAIN), (weighted, WEIGHTED)):
        axes.plot(epochs, run.train_loss, color=look["color"], **TRAINING)
        axes.plot(epochs, run.test_loss, color=look["color"], **TEST)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    # The losses begin at ln 2. The axis reaches down to 0.3, so that it has at least one labelled tick below that.
    axes.set_ylim(min(0.3, axes.get_ylim()[0]), 1)
    axes.set_xlim(0, epochs[-1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title("The loss falls")
    axes.set_xlabel("epoch")
    axes.set_ylabel("binary cross-entropy (nats)")
    axes.legend(
        handles=[
            Line2D([], [], color=GREY, label="test images", **TEST),
            Line2D([], [], color=GREY, label="training images", **TRAINING),
        ],
        title="mean over images and labels,\nmeasured without pos_weight in both",
        alignment="left",
        loc="best",
        frameon=True,  # an opaque frame hides the grid behind the text
        framealpha=1,
        edgecolor="none",
    )


def _with_mean(run: Run, name: str) -> Array:
    """That figure of each label, and then its mean, which is NaN if no label has the figure."""
    mean = run.report.overall()[name]
    return np.append(getattr(run.report.scores(), name), np.nan if mean is None else mean)


def _changes(axes: Axes, name: str, plain: Run, weighted: Run) -> None:
    """Draws one row for each label, and the mean over labels a little below them."""
    before, after = _with_mean(plain, name), _with_mean(weighted, name)
    rows = [*range(len(LABELS)), len(LABELS) + 0.4]
    axes.hlines(rows, before, after, color=GREY, linewidth=1.5)
    axes.plot(before, rows, "o", **PLAIN)
    axes.plot(after, rows, "o", **WEIGHTED)
    axes.axhline(len(LABELS) - 0.3, color=GREY, linewidth=0.8)
    axes.set_xlabel(f"{name} on the test images")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", left=False)


def _picture(plain: Run, weighted: Run, pos_weight: Array, conditions: str) -> Figure:
    figure = Figure(figsize=(12.5, 6.4), layout="constrained")
    left, precision, recall = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    _losses(left, plain, weighted)

    recall.sharey(precision)
    recall.sharex(precision)  # loss and gain are drawn to one scale
    _changes(precision, "precision", plain, weighted)
    _changes(recall, "recall", plain, weighted)
    names = [f"{name}  ×{p:.1f}" for name, p in zip(LABELS, pos_weight, strict=True)]
    precision.set_yticks([*range(len(names)), len(names) + 0.4], [*names, "mean"])
    precision.invert_yaxis()
    precision.set_title("pos_weight trades precision …")
    recall.set_title("… for recall")
    recall.tick_params(axis="y", labelleft=False)

    figure.legend(
        handles=[
            Line2D([], [], marker="o", label="trained without pos_weight", **PLAIN),
            Line2D([], [], marker="o", label="trained with pos_weight (×) = negatives / positives", **WEIGHTED),
        ],
        loc="outside upper left",
        ncols=2,
    )
    said = f"binxent computes this loss and its gradient in one pass over memory. {conditions}"
    figure.supxlabel(textwrap.fill(said, 190), x=0.01, ha="left", fontsize="small", color=GREY)
    return figure


def draw(plain: Run, weighted: Run, pos_weight: Array, conditions: str, file_format: str) -> bytes:
    """Returns the picture as the bytes of a file in the format ``png``, ``svg`` or ``pdf``. Needs no display."""
    file = io.BytesIO()
    with style.context(["default", STYLE]):  # ignores the user's own settings, with which a label may not fit
        _picture(plain, weighted, pos_weight, conditions).savefig(file, format=file_format, dpi=150)
    return file.getvalue()
