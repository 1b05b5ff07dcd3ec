"""Adds up losses together with what rounding takes from the sums, and the weights that may divide them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from binxent.arrays import Array
    from binxent.report.cells import Cells


class LossSums:
    """The sum of each label's losses, and what rounding has taken from it. The kernel adds to both."""

    def __init__(self, labels: int) -> None:
        self.sum, self.lost = np.zeros(labels), np.zeros(labels)

    def total(self) -> Array:
        return np.asarray(self.sum + self.lost)

    def merge(self, other: LossSums) -> None:
        total = self.sum + other.sum
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, and nothing is lost of an infinite sum
            part = total - self.sum
            lost = (self.sum - (total - part)) + (other.sum - part)
        self.lost += other.lost + np.nan_to_num(lost, nan=0)
        self.sum = total


class WeightSums:
    """Σ w and Σ w·y of each label. Until a batch has weights, these are the counts."""

    def __init__(self) -> None:
        self.sums: tuple[Array, Array] | None = None

    def of(self, cells: Cells) -> tuple[Array, Array]:
        if self.sums is not None:
            return self.sums
        return cells.known().astype(np.float64), cells.targets().sum(axis=1)

    def add(
        self,
        before: tuple[Array, Array],
        labels: Array,
        weight: Array | None,
        sample_weight: Array | None,
        known: Array | None,
    ) -> None:
        """``before``: the sums of all that was counted before these labels."""
        product = np.ones(labels.shape) if weight is None else weight.astype(np.float64)
        if sample_weight is not None:
            product = product * sample_weight.astype(np.float64)[:, None]
        if known is not None:
            product = np.where(known, product, 0)
        self.sums = before[0] + product.sum(axis=0), before[1] + (product * labels).sum(axis=0)

    def merge(self, cells: Cells, other: WeightSums, others: Cells) -> None:
        if self.sums is not None or other.sums is not None:
            (a, b), (c, d) = self.of(cells), other.of(others)
            self.sums = a + c, b + d
