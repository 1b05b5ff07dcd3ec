"""``binxent pos-weight``: label files to the vector that a loss takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from binxent.commands.paths import writable, write
from binxent.commands.refusals import refusing

if TYPE_CHECKING:
    from pathlib import Path

    from binxent.arrays import Array
    from binxent.labels import LabelCounts

METHODS = ("balanced", "sqrt", "effective")
OUTPUTS = (".npy", ".csv", ".json")
FILE = click.Path(path_type=str)


@click.command(
    "pos-weight",
    epilog="""
    \b
    Examples:
      binxent pos-weight labels.npy
      binxent pos-weight labels.parquet --method sqrt --clip 1 100 --output pos_weight.npy
      binxent pos-weight shard-*.npy --method effective --beta 0.9999
      binxent pos-weight labels.csv --without-positives 1 --json
    """,
)
@click.argument("labels", type=FILE, nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="balanced",
    show_default=True,
    help="negatives / positives; its square root; or the ratio of effective numbers of samples (Cui et al. 2019).",
)
@click.option(
    "--beta", type=click.FloatRange(0, 1, max_open=True), default=0.999, show_default=True, help="Of `effective`."
)
@click.option("--clip", type=(float, float), metavar="LEAST MOST", help="Bounds of every value.")
@click.option(
    "--without-positives",
    type=click.FloatRange(0),
    metavar="VALUE",
    help="For labels that have no positives; without it they are an error, which names them.",
)
@click.option("--ignore-index", type=float, metavar="VALUE", help="This label means: not known, as nan does.")
@click.option("-o", "--output", type=FILE, callback=writable(OUTPUTS), help="Write the vector: .npy, .csv or .json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the counts.")
@refusing
def pos_weight(
    labels: tuple[str, ...],
    method: str,
    beta: float,
    clip: tuple[float, float] | None,
    without_positives: float | None,
    ignore_index: float | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Take pos_weight from label files.

    LABELS are tables with a row for each sample and a column for each label: .npy, .npz, .csv, .parquet, or a sparse
    matrix as scipy.sparse.save_npz writes it. Several files are counted as one. They may be larger than memory. What is
    not known (nan, an empty cell) counts as neither positive nor negative.

    Exit code 2, after one line that says why, for files that cannot be counted.
    """
    from rich.console import Console

    from binxent.files import TableError

    total = _counted(labels[0], ignore_index)
    for path in labels[1:]:
        total.merge(_counted(path, ignore_index, total.names))
    try:
        vector = total.pos_weight(
            method, beta=beta, clip=clip, without_positives="error" if without_positives is None else without_positives
        )
    except ValueError as error:
        raise TableError(f"{', '.join(labels)}: {_by_option(str(error))}") from error

    if output is not None:
        write(output, _as_file(output.suffix.lower(), total.names, vector))
    if as_json:
        click.echo(json.dumps(_as_dict(total, vector, method), indent=2))
    elif output is None:
        for name, value in zip(total.names, vector.tolist(), strict=True):
            click.echo(f"{name}\t{value:.7g}")
    else:
        Console(stderr=True).print(f"{len(vector)} labels, {total.rows} rows: {output}", markup=False)


def _counted(path: str, ignore_index: float | None, like: list[str] | None = None) -> LabelCounts:
    """``like``: the names of the labels of the files before."""
    from binxent.files import TableError
    from binxent.labels import count_labels

    try:
        counts = count_labels(path, ignore_index=ignore_index)
    except TableError:
        raise
    except ValueError as error:
        raise TableError(f"{path}: {str(error).removeprefix('labels: ')}") from error
    if like is not None and counts.names != like:
        raise TableError(f"{path}: has other columns than the files before, or in another order")
    return counts


def _by_option(message: str) -> str:
    """The library names an argument where this command has an option."""
    return message.replace("give what they get, without_positives=1.0 for example", "give --without-positives 1")


def _as_dict(counts: LabelCounts, vector: Array, method: str) -> dict[str, object]:
    return {"method": method, "pos_weight": dict(zip(counts.names, vector.tolist(), strict=True)), **counts.as_dict()}


def _as_file(suffix: str, names: list[str], vector: Array) -> bytes:
    import csv
    import io

    import numpy as np

    if suffix == ".npy":
        file = io.BytesIO()
        np.save(file, vector)
        return file.getvalue()
    if suffix == ".json":
        return (json.dumps(dict(zip(names, vector.tolist(), strict=True)), indent=2) + "\n").encode()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, [f"{value:.9g}" for value in vector.tolist()]])
    return text.getvalue().encode()
