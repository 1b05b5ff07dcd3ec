"""Files to a report, larger than memory: each worker reads a part, counts it in a report of its own, and asks for more.

What a worker reads is then in its cache; and the reports are merged at the end, which is exact in any order.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from binxent.arrays import Array
from binxent.files import Table, TableError
from binxent.report import InvalidValueError, Report

_ELEMENTS = 1 << 20  # of a part
_ROWS = 16  # at least
_MAX_WORKERS = 4  # each has tables of its own


@dataclass(frozen=True)
class Sources:
    """The files, row by row beside each other. What is None, or has one row for all, is not among them."""

    predictions: Table
    labels: Table
    weight: Table | None = None
    sample_weight: Table | None = None
    mask: Table | None = None

    def tables(self) -> dict[str, Table]:
        return {name: table for name in self.__dataclass_fields__ if (table := getattr(self, name)) is not None}

    @property
    def rows(self) -> int | None:
        return self.predictions.rows if self.predictions.rows is not None else self.labels.rows


Part = tuple[int, dict[str, Callable[[], Array]]]


def _parts(sources: Sources, rows: int) -> Iterator[Part]:
    """The first row of each part, and what reads it."""
    tables = sources.tables()
    for number, loads in enumerate(itertools.zip_longest(*(table.parts(rows) for table in tables.values()))):
        ended = [table for table, load in zip(tables.values(), loads, strict=True) if load is None]
        if ended:
            longer = next(table for table in tables.values() if table not in ended)
            raise TableError(f"{ended[0].path}: ends after {number * rows} rows, but {longer.path} has more")
        yield number * rows, dict(zip(tables, loads, strict=True))


class _Counting:
    def __init__(
        self, sources: Sources, order: list[int] | None, weight: Array | None, advance: Callable[[int], None]
    ) -> None:
        self.sources, self.order, self.weight, self.advance = sources, order, weight, advance
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
            raise TableError(f"{tables[short].path}: has {shorter} rows, but {tables[longer].path} has more")
        for name in {"weight", "sample_weight"} & set(arrays):
            _check_weights(getattr(self.sources, name), first, arrays[name])
        if self.order is not None:
            arrays["labels"] = arrays["labels"][:, self.order]
        if self.weight is not None:
            arrays["weight"] = self.weight
        if "sample_weight" in arrays:
            arrays["sample_weight"] = arrays["sample_weight"][:, 0]
        try:
            report.update(**arrays)
        except InvalidValueError as wrong:
            hint = (
                "; logits are scored without --probabilities"
                if wrong.argument == "predictions" and report.probabilities
                else ""
            )
            table: Table = getattr(self.sources, wrong.argument)
            column = self.order[wrong.label] if self.order is not None and wrong.argument == "labels" else wrong.label
            name = f" ({table.names[column]})" if table.names else ""
            raise TableError(
                f"{table.path}: {wrong.value} at row {first + wrong.row}, column {column}{name}, counted from 0; "
                f"expected {wrong.expected}{hint}"
            ) from None


def _check_weights(table: Table, first: int, part: Array) -> None:
    if not (np.min(part, initial=0) >= 0 and np.max(part, initial=0) < np.inf):
        row, column = np.argwhere(~((part >= 0) & (part < np.inf)))[0].tolist()
        raise TableError(
            f"{table.path}: {part[row, column]} at row {first + row}, column {column}, counted from 0; "
            "expected a finite number of at least 0"
        )


def count_files(
    sources: Sources,
    make_report: Callable[[], Report],
    *,
    order: list[int] | None = None,
    weight: Array | None = None,
    workers: int,
    advance: Callable[[int], None],
) -> Report:
    """The report of all rows.

    Args:
        sources: the files.
        make_report: an empty report, for each worker.
        order: which columns of the labels belong to those of the predictions, where it is not one by one.
        weight: of each label, where no file has one for each element.
        workers: how many threads count.
        advance: told how many rows have been counted, in any thread.

    Raises:
        TableError: the first value, in the order of rows, that cannot be counted; files of different lengths.
    """
    counting = _Counting(sources, order, weight, advance)
    number = max(1, min(workers, _MAX_WORKERS))
    with ThreadPoolExecutor(number) as pool:
        try:
            reports = list(pool.map(counting.count, [make_report() for _ in range(number)]))
        finally:
            counting.stopped = True  # after Ctrl-C, which only the main thread sees
    if counting.failures:
        raise min(counting.failures, key=lambda failure: failure[0])[1]
    total = reports[0]
    for report in reports[1:]:
        total.merge(report)
    return total
