"""Reads and writes the CSV files, which have one row for each figure, with its conditions and the machine."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# A figure's name and conditions, then the figure. What follows in the file are the machine's facts.
SPEED = (
    *("quantity", "framework", "way", "elements", "shape", "dtype", "options", "passes", "threads", "memory"),
    *("unit", "median", "least", "lower", "upper", "rounds", "against", "ratio", "ratio_lower", "ratio_upper"),
    *("page_faults", "error"),
)
ACCURACY = (
    *("quantity", "framework", "way", "loss", "dtype", "measured", "region", "target"),
    *("worst", "mean", "worst_input", "worst_target", "error"),
)
GPU = (
    *("way", "elements", "dtype", "target", "options", "unit", "median", "least", "lower", "upper", "rounds"),
    *("against", "ratio", "share_of_copy", "extra_tensors", "launches", "synchronises", "gradient_ulp", "mean_ulp"),
    *("same_bits", "error"),
)
HEAD = (
    *("device", "way", "rows", "features", "labels", "dtype", "target", "chunk", "threads", "unit", "median", "least"),
    *("lower", "upper", "rounds", "against", "ratio", "ratio_lower", "ratio_upper", "extra_bytes"),
    *("extra_over_weight_gradient",),
)
STEP = (
    *("model", "way", "threads", "clock", "unit", "median", "least", "lower", "upper", "rounds"),
    *("against", "ratio", "ratio_lower", "ratio_upper"),
)
TAIL = ("framework", "way", "output", "target", "logit", "value", "error")
FLOATS = {"median", "least", "lower", "upper", "ratio", "ratio_lower", "ratio_upper", "page_faults", "worst", "mean"}
FLOATS |= {"share_of_copy", "extra_tensors", "gradient_ulp", "mean_ulp"}
FLOATS |= {"extra_over_weight_gradient", "logit", "value"}
INTEGERS = {
    "calls",
    "wrong",
    "seconds",
    "elements",
    "threads",
    "rounds",
    "launches",
    "rows",
    "features",
    "labels",
    "chunk",
    "extra_bytes",
}


def _typed(name: str, text: str) -> Any:
    if name in FLOATS:
        return float(text) if text else None
    if name in INTEGERS:
        return int(text) if text else None
    return text


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return [{name: _typed(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def write(path: Path, rows: Iterable[Row], columns: Sequence[str] = SPEED) -> None:
    rows = list(rows)
    facts = dict.fromkeys(name for row in rows for name in row if name not in columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *facts], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def find(rows: Iterable[Row], **conditions: Any) -> Row | None:
    """The first row with a figure under these conditions, or None."""
    return next(iter(select(rows, **conditions)), None)


def select(rows: Iterable[Row], **conditions: Any) -> list[Row]:
    return [
        row
        for row in rows
        if row["median"] is not None and all(row[name] == value for name, value in conditions.items())
    ]


# The values of all axes but the one that is looked at.
HEADLINE = {
    "quantity": "time",
    "elements": 4096 * 4096,
    "dtype": "float32",
    "options": "plain",
    "passes": "forward + backward",
    "memory": "default",
}


def headline(rows: Iterable[Row], **conditions: Any) -> Row | None:
    """The row of these conditions, with the most threads that were measured unless ``threads`` is given."""
    found = select(rows, **{**HEADLINE, **conditions})
    return max(found, key=lambda row: row["threads"] or 0, default=None)


def errors(rows: Iterable[Row], framework: str, way: str, **conditions: Any) -> dict[tuple[str, str], float]:
    """The worst errors, by what was measured and region; for ours the worst of all faces."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        its_own = row["way"] == way and (way == "binxent" or row["framework"] == framework)
        if its_own and row["worst"] is not None and all(row[name] == value for name, value in conditions.items()):
            key = row["measured"], row["region"]
            found[key] = max(found.get(key, 0.0), row["worst"])
    return found
