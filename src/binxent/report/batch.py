"""Checks a batch of a report: makes arrays that the kernel reads, and refuses what cannot be counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import kernel, options
from binxent.arrays import Array, as_array

if TYPE_CHECKING:
    from collections.abc import Sequence


class InvalidValueError(ValueError):
    """A value that cannot be counted, NaN or out of range; its attributes tell where the value is."""

    def __init__(self, argument: str, row: int, label: int, value: Any, expected: str, name: str) -> None:
        super().__init__(f"{argument}: {value} in row {row}, label {name}; expected {expected}")
        self.argument, self.row, self.label, self.value, self.expected = argument, row, label, value, expected


@dataclass(frozen=True)
class Batch:
    """The arrays of a batch: [rows, labels] each, but [rows] for ``sample_weight``."""

    predictions: Array
    labels: Array
    weight: Array | None
    sample_weight: Array | None
    mask: Array | None

    def part(self, rows: slice) -> Batch:
        arrays = (self.predictions, self.labels, self.weight, self.sample_weight, self.mask)
        return Batch(*(None if array is None else array[rows] for array in arrays))  # type: ignore[arg-type]


def operand(array: Array) -> kernel.Operand:
    return array.ctypes.data, kernel.TAGS[array.dtype.name], array.shape, None


def readable(array: Array) -> Array:
    """Returns the array in a dtype that the kernel reads."""
    if array.dtype.name in kernel.TAGS and array.dtype.isnative:
        return array
    if array.dtype.name in kernel.TAGS:
        return array.astype(array.dtype.newbyteorder("="))
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)


def read(count: int, predictions: Any, labels: Any, weight: Any, sample_weight: Any, mask: Any) -> Batch:
    """Returns the arguments of ``Report.update`` as arrays for ``count`` labels; raises what it raises for a shape."""
    x, y = (as_array(*pair) for pair in (("predictions", predictions), ("labels", labels)))
    if x.shape != y.shape:
        raise ValueError(f"labels: shape {y.shape} must be that of the predictions, {x.shape}")
    if x.ndim == 1 and count == 1:
        x, y = x[:, None], y[:, None]
    if x.ndim != 2 or x.shape[1] != count:
        raise ValueError(f"predictions: shape {x.shape}; expected [rows, {count}], a column for each label")
    x, y = readable(x), readable(y)
    if x.dtype.name not in kernel.FLOATING:
        x = x.astype(np.float64)
    weights = None
    if weight is not None:
        weights = readable(as_array("weight", weight))
        options.check_broadcast("weight", weights.shape, x.shape)
        weights = np.broadcast_to(weights, x.shape)
    samples = None
    if sample_weight is not None:
        samples = readable(as_array("sample_weight", sample_weight))
        options.check_sample_weight(samples.shape, x.shape)
    shown = None
    if mask is not None:
        shown = as_array("mask", mask) != 0
        if shown.ndim == 1 and count == 1:
            shown = shown[:, None]
        if shown.shape != x.shape:
            raise ValueError(f"mask: shape {shown.shape} must be that of the predictions, {x.shape}")
    return Batch(x, y, weights, samples, shown)


def refuse(first: int, x: Array, y: Array, probabilities: bool, names: Sequence[str]) -> None:
    """Raises InvalidValueError for the first value of the rows from ``first`` on that is not to be counted."""
    low, high = (0, 1) if probabilities else (-np.inf, np.inf)
    number = "a number between 0 and 1"
    for argument, array, least, most in (("predictions", x, low, high), ("labels", y, 0, 1)):
        wrong = np.argwhere(~((array >= least) & (array <= most)))
        if len(wrong):
            row, label = (int(i) for i in wrong[0])
            expected = number if argument == "labels" or probabilities else "a number"
            raise InvalidValueError(argument, first + row, label, array[row, label], expected, names[label])
