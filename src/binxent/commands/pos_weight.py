"""``binxent pos-weight``: computes, from label files, the vector that a loss takes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from binxent.commands.paths import writable, write
from binxent.commands.refusals import refusing

if TYPE_CHECKING:
    from pathlib import Path

    from binxent.arrays import Array
    from binxent.label_counts import LabelCounts

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
    help="negatives / positives; the square root of that; or the ratio of effective numbers (Cui et al. 2019).",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.999,
    show_default=True,
    help="The beta of `effective`.",
)
@click.option("--clip", type=(float, float), metavar="LEAST MOST", help="Least and greatest value.")
@click.option(
    "--without-positives",
    type=click.FloatRange(0),
    metavar="VALUE",
    help="Value for labels without positives; by default such a label is an error.",
)
@click.option(
    "--ignore-index", type=float, metavar="VALUE", help="A value that stands for an unknown label, as nan always does."
)
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first line of .csv files names the columns; detected by default.",
)
@click.option("-o", "--output", type=FILE, callback=writable(OUTPUTS), help="File for the vector: .npy, .csv or .json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the counts.")
@refusing
def pos_weight(
    labels: tuple[str, ...],
    method: str,
    beta: float,
    clip: tuple[float, float] | None,
    without_positives: float | None,
    ignore_index: float | None,
    header: bool | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compute pos_weight from label files.

    LABELS are tables with a row for each sample and a column for each label: .npy, .npz, .csv, .parquet, or a sparse
    matrix as scipy.sparse.save_npz writes it. Several files are counted as one. All but sparse ones may be larger than
    memory. A label that is not known (nan, an empty cell) counts as neither positive nor negative.

    Files that cannot be counted end the command with exit code 2 and one line that says why.
    """
    from binxent.commands.shown import printable
    from binxent.files import TableError, plural

    total = _counted(labels, ignore_index, header)
    try:
        vector = total.pos_weight(
            method, beta=beta, clip=clip, without_positives="error" if without_positives is None else without_positives
        )
    except ValueError as error:
        raise TableError(f"{', '.join(labels)}: {_by_option(str(error))}") from error

    if output is not None:
        write(output, _as_file(output.suffix.lower(), total.names, vector))
    if as_json:
        print(json.dumps(_as_dict(total, vector, method), indent=2))
    elif output is None:
        encoding = sys.stdout.encoding
        for name, value in zip(total.names, vector.tolist(), strict=True):
            print(f"{printable(name, encoding)}\t{value:.7g}")
    else:
        print(f"{plural(len(vector), 'label')}, {plural(total.rows, 'row')}: {output}", file=sys.stderr)


def _counted(paths: tuple[str, ...], ignore_index: float | None, header: bool | None) -> LabelCounts:
    """Counts all files as one, by the names of their columns, or by place where a file has no names."""
    from binxent.commands.matching import check_distinct, order_like
    from binxent.files import TableError, open_table, plural
    from binxent.label_counts import LabelCounts

    total: LabelCounts | None = None
    named: tuple[str, list[str]] | None = None  # the first file that has names
    for path in paths:
        with open_table(path, header=header) as table:
            names, columns = table.names, table.columns
        counts = _count(path, ignore_index, header)
        if total is not None and columns != len(total.names):
            raise TableError(f"{path}: has {plural(columns, 'column')}, but {paths[0]} has {len(total.names)}")
        if names is not None:
            check_distinct(path, names)
        order = list(range(columns))
        if names is not None and named is not None:
            order = order_like(path, names, *named)
        elif names is not None:
            named = path, names
        shown = named[1] if named else counts.names
        counts = LabelCounts(counts.positives[order], counts.negatives[order], shown, counts.rows)
        if total is None:
            total = counts
            continue
        total.names = shown
        total.merge(counts)
    assert total is not None  # click asks for a file
    return total


def _count(path: str, ignore_index: float | None, header: bool | None) -> LabelCounts:
    from binxent.files import TableError
    from binxent.labels import count_labels

    try:
        return count_labels(path, ignore_index=ignore_index, header=header)
    except TableError as error:
        raise TableError(_by_option(str(error))) from error
    except ValueError as error:
        message = str(error).removeprefix("labels: ")
        if "expected 0 to 1" in message:
            message += "; where it means that the label is not known, give it as --ignore-index"
        raise TableError(f"{path}: {message}") from error


def _by_option(message: str) -> str:
    """The message with this command's options in the place of the library's arguments."""
    message = message.replace("header=True or header=False", "--header or --no-header")
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
