"""Counts files that may be larger than memory into a report.

Each worker reads a part, which is then in its cache, and counts it in a report of its own. The reports are merged at
the end, which gives the same counts in any order.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from binxent.arrays import Array
from binxent.commands.suspicions import Suspicions, is_hard
from binxent.files import Table, TableError, plural
from binxent.report import EXACT_SCORES, InvalidValueError, Report

_ELEMENTS = 1 << 20  # of a part
_ROWS = 16  # of a part, at least
_MAX_WORKERS = 4  # each has a report of its own, with its memory
_ROLES = ("predictions", "labels", "weight", "sample_weight", "mask")


@dataclass(frozen=True)
class Sources:
    """The files that are read row by row side by side; None for a file that was not given, or has one row for all.

    ``orders``: for each file whose columns are in another order than the labels, its columns in the labels' order.
    """

    predictions: Table
    labels: Table
    weight: Table | None = None
    sample_weight: Table | None = None
    mask: Table | None = None
    orders: dict[str, list[int]] = field(default_factory=dict)

    def tables(self) -> dict[str, Table]:
        return {name: table for name in _ROLES if (table := getattr(self, name)) is not None}

    @property
    def rows(self) -> int | None:
        return self.predictions.rows if self.predictions.rows is not None else self.labels.rows


Part = tuple[int, dict[str, Callable[[], Array]]]


def _parts(sources: Sources, rows: int) -> Iterator[Part]:
    """Yields the number of each part's first row, and the functions that read the part."""
    tables = sources.tables()
    for number, loads in enumerate(itertools.zip_longest(*(table.parts(rows) for table in tables.values()))):
        ended = [table for table, load in zip(tables.values(), loads, strict=True) if load is None]
        if ended:
            longer = next(table for table in tables.values() if table not in ended)
            raise TableError(f"{ended[0].path}: ends after {plural(number * rows, 'row')}, but {longer.path} has more")
        yield number * rows, dict(zip(tables, loads, strict=True))


class _Counting:
    def __init__(
        self, sources: Sources, weight: Array | None, suspicions: Suspicions, advance: Callable[[int], None]
    ) -> None:
        self.sources, self.weight, self.suspicions, self.advance = sources, weight, suspicions, advance
        self.size = max(_ROWS, _ELEMENTS // sources.predictions.columns)
        self.parts = _parts(sources, self.size)
        self.lock = threading.Lock()
        self.stopped = False
        self.failures: list[tuple[int, BaseException]] = []

    def next_part(self) -> Part | None:
        with self.lock:
            return None if self.stopped else next(self.parts, None)

    def count(self, report: Report) -> Report:
        first = 0
        try:
            while (part := self.next_part()) is not None:
                first, loads = part
                if first * self.sources.predictions.columns >= EXACT_SCORES:
                    report.stop_keeping_scores()  # all workers together have too many to store
                arrays = {name: load() for name, load in loads.items()}
                self.count_part(report, first, arrays)
                self.advance(len(arrays["predictions"]))
        except BaseException as failure:
            self.stopped = True
            self.failures.append((first, failure))
        return report

    def count_part(self, report: Report, first: int, arrays: dict[str, Array]) -> None:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            short = min(lengths, key=lambda name: lengths[name])
            tables, shorter = self.sources.tables(), first + lengths[short]
            longer = next(name for name in lengths if lengths[name] != lengths[short])
            raise TableError(f"{tables[short].path}: has {plural(shorter, 'row')}, but {tables[longer].path} has more")
        for name in {"weight", "sample_weight"} & set(arrays):
            _check_weights(getattr(self.sources, name), first, arrays[name])
        if self.sources.mask is not None:
            _check_mask(self.sources.mask, first, arrays["mask"])
        for name, order in self.sources.orders.items():
            arrays[name] = arrays[name][:, order]
        if self.weight is not None:
            arrays["weight"] = self.weight
        if "sample_weight" in arrays:
            arrays["sample_weight"] = arrays["sample_weight"][:, 0]
        try:
            report.update(**arrays)
        except InvalidValueError as wrong:
            raise self.named(wrong, first, arrays["predictions"]) from None
        self.suspicions.look(arrays["predictions"], arrays["labels"], arrays.get("mask"))

    def named(self, wrong: InvalidValueError, first: int, predictions: Array) -> TableError:
        """Returns an error that says where in the file the value is, and what may have been meant."""
        table: Table = getattr(self.sources, wrong.argument)
        order = self.sources.orders.get(wrong.argument)
        column = wrong.label if order is None else order[wrong.label]
        name = f" ({table.names[column]})" if table.names else ""
        value = float(wrong.value)
        hint = ""
        if wrong.argument == "predictions":
            if self.suspicions.probabilities and not math.isnan(value):
                hint = "; logits are scored without --probabilities"
        elif not math.isnan(value) and is_hard(predictions):
            hint = "; are the files in the wrong order? The predictions come first"
        elif math.isnan(value) or value.is_integer():
            hint = f"; where it means that the label is not known, give --ignore-index {value:g}"
        return TableError(
            f"{table.path}: {wrong.value} at row {first + wrong.row}, column {column}{name}, counted from 0; "
            f"expected {wrong.expected}{hint}"
        )


def _check_weights(table: Table, first: int, part: Array) -> None:
    if not (np.min(part, initial=0) >= 0 and np.max(part, initial=0) < np.inf):
        _refuse(table, first, part, ~((part >= 0) & (part < np.inf)), "a finite number of at least 0")


def _check_mask(table: Table, first: int, part: Array) -> None:
    if part.dtype != bool and not (is_one := (part == 0) | (part == 1)).all():
        _refuse(table, first, part, ~is_one, "0 or 1 in each element, 0 where it does not count")


def _refuse(table: Table, first: int, part: Array, wrong: Array, expected: str) -> None:
    row, column = np.argwhere(wrong)[0].tolist()
    name = f" ({table.names[column]})" if table.names else ""
    raise TableError(
        f"{table.path}: {part[row, column]} at row {first + row}, column {column}{name}, counted from 0; "
        f"expected {expected}"
    )


def count_files(
    sources: Sources,
    make_report: Callable[[], Report],
    *,
    weight: Array | None = None,
    suspicions: Suspicions,
    workers: int,
    advance: Callable[[int], None],
) -> Report:
    """Returns the report of all rows.

    Args:
        sources: the files.
        make_report: makes an empty report, for each worker.
        weight: one for each label, if no file has one for each element.
        suspicions: looks at every part that has been counted.
        workers: how many threads count; no more than 4 are used.
        advance: called in any thread with the number of rows that have been counted.

    Raises:
        TableError: the first value, in the order of rows, that cannot be counted; files of different lengths.
    """
    counting = _Counting(sources, weight, suspicions, advance)
    number = max(1, min(workers, _MAX_WORKERS))
    with ThreadPoolExecutor(number) as pool:
        try:
            reports = list(pool.map(counting.count, [make_report() for _ in range(number)]))
        finally:
            counting.stopped = True  # ends the workers after Ctrl-C, which only the main thread sees
    if counting.failures:
        raise min(counting.failures, key=lambda failure: failure[0])[1]
    total = reports[0]
    for report in reports[1:]:
        total.merge(report)
    return total
