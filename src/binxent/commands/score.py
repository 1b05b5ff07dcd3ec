"""``binxent score``: makes a report of prediction and label files."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from binxent.commands.paths import writable, write
from binxent.commands.refusals import refusing
from binxent.options import FOCAL

if TYPE_CHECKING:
    from pathlib import Path

    from binxent.arrays import Array
    from binxent.report import Report

PICTURES = (".png", ".svg", ".pdf")
REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")
FILE = click.Path(path_type=str)

# The loss's options that are one value, and off by default: name, type and help.
LOSS_OPTIONS: tuple[tuple[str, click.ParamType[Any], str], ...] = (
    ("label_smoothing", click.FloatRange(0, 1), "Label smoothing E: y(1-E) + E/2 stands for a label y."),
    ("gamma", click.FloatRange(0), "Power of the focal loss; 0 is the plain loss."),
    ("gamma_positive", click.FloatRange(0), "Power for positives, where positives and negatives have their own."),
    ("gamma_negative", click.FloatRange(0), "Power for negatives, likewise."),
    (
        "alpha",
        click.FloatRange(0, 1),
        "Alpha of the focal loss: the factor of positives; negatives have 1-alpha.",
    ),
    (
        "margin",
        click.FloatRange(0, 1, max_open=True),
        "Margin M: a negative's probability p becomes max(p-M, 0).",
    ),
    (
        "focal",
        click.Choice(FOCAL),
        "For soft labels: whether each class has its own power (branch, the default) or the whole that of p_t.",
    ),
)


def _loss_options(command: Any) -> Any:
    for name, kind, text in reversed(LOSS_OPTIONS):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(command)
    return command


@click.command(
    epilog="""
    \b
    Examples:
      binxent score logits.npy labels.npy
      binxent score probabilities.csv labels.csv --probabilities --threshold 0.3
      binxent score run.npz:logits run.npz:labels --plot report.png
      binxent score logits.parquet labels.parquet --json > report.json
      binxent score logits.npy labels.npy --ignore-index nan --sample-weight weights.npy
    """
)
@click.argument("predictions", type=FILE)
@click.argument("labels", type=FILE)
@click.option("--probabilities", is_flag=True, help="The predictions are probabilities, not logits.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Probability above which a label is predicted, for precision and recall.",
)
@click.option("--weight", type=FILE, help="Weights: one for each label, or one for each prediction.")
@click.option(
    "--pos-weight", type=FILE, help="Weight of the positives, one for each label, as `binxent pos-weight` writes it."
)
@click.option("--neg-weight", type=FILE, help="Weight of the negatives, one for each label.")
@click.option("--sample-weight", type=FILE, help="One weight for each row.")
@click.option("--mask", type=FILE, help="A table of the predictions' shape: 1 where a prediction counts, 0 where not.")
@click.option(
    "--ignore-index",
    type=float,
    metavar="VALUE",
    help="A value, such as nan, that stands for an unknown label.",
)
@click.option(
    "--reduction",
    type=click.Choice(REDUCTIONS),
    default="mean",
    show_default=True,
    help="How a label's losses are reduced.",
)
@_loss_options
@click.option(
    "--calibration-bins",
    type=click.IntRange(1, 1000),
    default=15,
    show_default=True,
    help="Number of bins of probability for the calibration error.",
)
@click.option(
    "--names",
    type=FILE,
    help="A text file with a label's name in each line, for files whose columns have no names.",
)
@click.option("--by-position", is_flag=True, help="Match columns by their position, even where both files name them.")
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first line of .csv files names the columns; detected by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all labels and the bins of the calibration.")
@click.option(
    "--plot", type=FILE, callback=writable(PICTURES), help="File for a picture of the report: .png, .svg or .pdf."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many labels the table shows at most: those with the greatest losses.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Number of worker threads, at most 4; by default one per processor."
)
@refusing
def score(
    predictions: str,
    labels: str,
    weight: str | None,
    pos_weight: str | None,
    neg_weight: str | None,
    sample_weight: str | None,
    mask: str | None,
    names: str | None,
    by_position: bool,
    header: bool | None,
    as_json: bool,
    plot: Path | None,
    limit: int,
    threads: int | None,
    **settings: Any,
) -> None:
    """Score predictions against labels.

    PREDICTIONS and LABELS are tables of one shape, with a row for each sample and a column for each label: .npy, .npz
    (file.npz:name where it holds several arrays), .csv or .parquet. They may be larger than memory. A label is 0 or 1,
    or a number between them (a soft label). Where both files name their columns, these are matched by name.

    Prints, for each label: its loss; the base rate, which is the share of positives; the base-rate loss, which is that
    of the best constant prediction; the expected calibration error (ECE); precision, recall and average precision (AP).

    Weights and the options of the loss, such as --gamma, change the two losses only. Given those of the training, the
    loss is that of the training.

    Files that cannot be scored end the command with exit code 2 and one line that says why.
    """
    # Imported here and not above, so that `binxent --help` stays quick.
    from binxent import kernel
    from binxent.commands.as_json import as_dict
    from binxent.commands.counting import Sources, count_files
    from binxent.commands.matching import match
    from binxent.commands.opening import open_all
    from binxent.commands.progress import progress
    from binxent.commands.shapes import check_rows, check_shapes, is_constant, read_names, vector
    from binxent.commands.suspicions import Suspicions
    from binxent.files import TableError
    from binxent.label_names import numbered
    from binxent.options import DEFAULTS, NO_FOCAL
    from binxent.options import focal as check_focal
    from binxent.options import terms as check_terms
    from binxent.report import EXACT_SCORES, Report

    if not as_json:
        import rich  # noqa: F401 - named before the work if it is missing
    if plot is not None:
        # matplotlib cannot be imported if MPLBACKEND names a backend that it does not know.
        os.environ["MPLBACKEND"] = "agg"
        from binxent.commands import picture

    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        family = check_focal(**{name: settings[name] for name in NO_FOCAL._fields if name in settings})
        given = {name: settings.get(name, DEFAULTS[name]) for name in ("ignore_index", "label_smoothing", "gamma")}
        check_terms(**given, target_dtype="float32", focal=family)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    workers = threads or kernel.num_threads()
    paths = {
        "predictions": predictions,
        "labels": labels,
        "weight": weight,
        "pos_weight": pos_weight,
        "neg_weight": neg_weight,
        "sample_weight": sample_weight,
        "mask": mask,
    }
    with contextlib.ExitStack() as files:
        tables = open_all(files, paths, header)
        check_shapes(tables)
        predicted = tables["predictions"]
        matched = match(tables, None if names is None else (names, read_names(names, predicted)), by_position)
        orders = matched.orders
        label_names = numbered(predicted.columns) if matched.names is None else matched.names

        def one_for_each_label(argument: str) -> Array | None:
            return vector(tables.pop(argument, None), label_names, orders.pop(argument, None))

        settings |= {name: one_for_each_label(name) for name in ("pos_weight", "neg_weight")}
        constant_weight = None
        if "weight" in tables and is_constant(tables["weight"]):
            constant_weight = one_for_each_label("weight")
        sources = Sources(**tables, orders=orders)
        check_rows(sources.tables())
        suspicions = Suspicions(settings["probabilities"], settings.get("ignore_index"))

        # Known to be too many to store, the scores are counted in bins from the start.
        exact_scores = 0 if (sources.rows or 0) * predicted.columns > EXACT_SCORES else EXACT_SCORES

        def make_report() -> Report:
            return Report(label_names, exact_scores=exact_scores, **settings)

        try:
            kernel.set_num_threads(1)  # the workers are threads already
            with progress("rows", sources.rows) as advance:
                report = count_files(
                    sources,
                    make_report,
                    weight=constant_weight,
                    suspicions=suspicions,
                    workers=workers,
                    advance=advance,
                )
        finally:
            kernel.set_num_threads(0)
        if report.rows == 0:
            raise TableError(f"{predictions}: has no rows")

    warning = suspicions.warning(predictions, labels)
    if warning is not None:
        print(f"binxent score: warning: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(as_dict(report, predictions, labels), indent=2, allow_nan=False))
    else:
        from binxent.commands import table

        table.show(report, limit)
    if plot is not None:
        drawn, whole = picture.draw(report, f"{predictions}, {labels}", plot.suffix.lower().removeprefix("."))
        write(plot, drawn)
        if not whole:
            print("binxent score: warning: the picture's font lacks some signs, which are boxes there", file=sys.stderr)
        if not as_json:
            print(f"Picture: {click.format_filename(plot)}")
