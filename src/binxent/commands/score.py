"""``binxent score``: prediction and label files to a report."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binxent.commands.paths import writable, write
from binxent.commands.refusals import refusing

if TYPE_CHECKING:
    from binxent.arrays import Array
    from binxent.files import Table
    from binxent.report import Report

PICTURES = (".png", ".svg", ".pdf")
REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")
FILE = click.Path(path_type=str)

# Options of the loss that are one number, off by default: the name, the type, the help.
LOSS_OPTIONS: tuple[tuple[str, click.ParamType[float], str], ...] = (
    ("label_smoothing", click.FloatRange(0, 1), "E: a label y counts in the loss as y(1-E) + E/2."),
    ("gamma", click.FloatRange(0), "Of the focal loss; 0 is none."),
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
    help="A label is predicted where its probability is greater; for precision and recall.",
)
@click.option("--weight", type=FILE, help="Weights: one for each label, or a matrix, as the predictions.")
@click.option(
    "--pos-weight", type=FILE, help="One for each label: what positives weigh, as `binxent pos-weight` has it."
)
@click.option("--sample-weight", type=FILE, help="One weight for each row.")
@click.option("--mask", type=FILE, help="A matrix as the predictions: where it is 0 nothing counts.")
@click.option("--ignore-index", type=float, metavar="VALUE", help="This label means: not known. nan, for example.")
@click.option(
    "--reduction",
    type=click.Choice(REDUCTIONS),
    default="mean",
    show_default=True,
    help="What the loss of a label is.",
)
@_loss_options
@click.option(
    "--calibration-bins", type=click.IntRange(1, 1000), default=15, show_default=True, help="Of the calibration error."
)
@click.option("--names", type=FILE, help="A text file with the name of a label in each line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every label and the calibration.")
@click.option("--plot", type=FILE, callback=writable(PICTURES), help="Draw the report: a .png, .svg or .pdf.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Of more labels, the table shows those with the greatest losses.",
)
@click.option("--threads", type=click.IntRange(min=1), help="How many count; by default the processors, at most 4.")
@refusing
def score(
    predictions: str,
    labels: str,
    weight: str | None,
    pos_weight: str | None,
    sample_weight: str | None,
    mask: str | None,
    names: str | None,
    as_json: bool,
    plot: Path | None,
    limit: int,
    threads: int | None,
    **settings: Any,
) -> None:
    """Score predictions against labels.

    PREDICTIONS and LABELS are tables of one shape, with a row for each sample and a column for each label: .npy, .npz
    (file.npz:name where it holds several arrays), .csv or .parquet. They may be larger than memory. Labels are 0 or 1,
    or soft, between them.

    Prints, for each label: the loss; the base rate and the loss that this constant prediction would get; the expected
    calibration error (ECE); precision, recall and average precision (AP). Weights act on the losses alone.

    Exit code 2, after one line that says why, for files that cannot be scored.
    """
    # Here and not above: `binxent --help` is quick.
    from binxent import kernel
    from binxent.commands.counting import Sources, count_files
    from binxent.commands.progress import progress
    from binxent.files import TableError, open_table
    from binxent.options import Terms
    from binxent.options import terms as check_terms
    from binxent.report import Report

    if not as_json:
        import rich  # noqa: F401 - whatever is missing is named before the work
    if plot is not None:
        # matplotlib refuses to be imported where the environment names a
        # backend that it does not know.
        os.environ["MPLBACKEND"] = "agg"
        from binxent.commands import picture

    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        terms = {name: settings[name] for name in Terms._fields if name in settings}
        check_terms(**{**Terms()._asdict(), **terms}, target_dtype="float32")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    workers = threads or kernel.num_threads()
    with contextlib.ExitStack() as files:

        def opened(path: str | None) -> Table | None:
            return None if path is None else files.enter_context(open_table(path))

        predicted, actual = files.enter_context(open_table(predictions)), files.enter_context(open_table(labels))
        order = _match(predicted, actual)
        named = _names(names, predicted, actual)
        constant_weight, weight_table = _weight(opened(weight), predicted)
        sources = Sources(predicted, actual, weight_table, opened(sample_weight), opened(mask))
        _check_shapes(sources)
        p = _vector(opened(pos_weight), predicted.columns)

        def make_report() -> Report:
            return Report(named, pos_weight=p, **settings)

        try:
            kernel.set_num_threads(1)  # each worker is a thread already
            with progress("rows", sources.rows) as advance:
                report = count_files(
                    sources, make_report, order=order, weight=constant_weight, workers=workers, advance=advance
                )
        finally:
            kernel.set_num_threads(0)
        if report.rows == 0:
            raise TableError(f"{predictions}: has no rows")

    if plot is not None:
        write(plot, picture.draw(report, f"{predictions}, {labels}", plot.suffix.lower().removeprefix(".")))
    if as_json:
        click.echo(json.dumps(_as_dict(report, predictions, labels), indent=2, allow_nan=False))
        return
    from rich.console import Console

    from binxent.commands import table

    console = Console()
    console.print(table.of(report, limit, console.width))
    if plot is not None:
        click.echo(f"Picture: {click.format_filename(plot)}")


def _match(predictions: Table, labels: Table) -> list[int] | None:
    """Columns with the same names in another order are put in order; any other columns are matched by place."""
    from binxent.files import TableError

    if predictions.columns != labels.columns:
        raise TableError(
            f"{labels.path}: has {labels.columns} columns, but {predictions.path} has {predictions.columns}"
        )
    if predictions.columns == 0:
        raise TableError(f"{predictions.path}: has no columns")
    if predictions.rows is not None and labels.rows is not None and predictions.rows != labels.rows:
        raise TableError(f"{labels.path}: has {labels.rows} rows, but {predictions.path} has {predictions.rows}")
    a, b = predictions.names, labels.names
    if not a or not b or a == b or set(a) != set(b) or len(set(a)) < len(a):
        return None
    return [b.index(name) for name in a]


def _names(path: str | None, predictions: Table, labels: Table) -> Any:
    from binxent.files import TableError

    if path is None:
        return predictions.names or labels.names or predictions.columns
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(names) != predictions.columns:
        raise TableError(f"{path}: has {len(names)} names, but {predictions.path} has {predictions.columns} columns")
    return names


def _vector(table: Table | None, columns: int) -> Array | None:
    """One number for each label: a row, or a column, of them."""
    from binxent.files import TableError

    if table is None:
        return None
    values = table.read()
    if values.size != columns or min(values.shape) != 1:
        raise TableError(f"{table.path}: shape {values.shape}; expected one number for each of {columns} labels")
    vector = values.reshape(-1)
    if not (vector >= 0).all():
        raise TableError(f"{table.path}: {vector[~(vector >= 0)][0]}; expected numbers of at least 0")
    return vector


def _weight(table: Table | None, predictions: Table) -> tuple[Array | None, Table | None]:
    """Weights are one for each label, or a file that is read beside the predictions."""
    if table is None:
        return None, None
    if table.flat or table.rows == 1 or (table.rows is None and _has_one_row(table)):
        return _vector(table, predictions.columns), None
    return None, table


def _has_one_row(table: Table) -> bool:
    first = next(iter(table.parts(2)), None)
    return first is not None and len(first()) == 1


def _check_shapes(sources: Any) -> None:
    from binxent.files import TableError

    rows, columns = sources.rows, sources.predictions.columns
    for name, table in sources.tables().items():
        expected = 1 if name == "sample_weight" else columns
        if table.columns != expected and not (name == "weight" and table.columns == 1):
            raise TableError(f"{table.path}: has {table.columns} columns; expected {expected}")
        if table.rows is not None and rows is not None and table.rows != rows:
            raise TableError(f"{table.path}: has {table.rows} rows, but {sources.predictions.path} has {rows}")


def _number(value: float | None) -> float | str | None:
    """JSON has no infinite number; a loss may be one."""
    return "Infinity" if value == math.inf else value


def _as_dict(report: Report, predictions: str, labels: str) -> dict[str, Any]:
    from binxent import __version__

    count, probability, target = report.calibration()
    scores = report.scores()
    figures = scores.as_dict()
    return {
        "binxent": __version__,
        "predictions": predictions,
        "labels": labels,
        "rows": report.rows,
        "probabilities": report.probabilities,
        "threshold": report.threshold,
        "reduction": report.reduction,
        "overall": {key: _number(value) for key, value in report.overall(scores).items()},
        "per_label": [
            {"label": name, **{key: _number(values[i]) for key, values in figures.items()}}
            for i, name in enumerate(report.names)
        ],
        "calibration": {
            "count": count.tolist(),
            "probability_sum": probability.tolist(),
            "target_sum": target.tolist(),
        },
    }
