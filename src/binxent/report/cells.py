"""Counts the elements of each label by bin of probability, prediction and class, which give calibration, precision and
recall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binxent import kernel

if TYPE_CHECKING:
    from binxent.arrays import Array


class Cells:
    """Tables that the kernel adds to, [labels, calibration bins, predicted, positive]; all are integers, so that the
    order of adding does not matter.

    Attributes:
        packed: a count and a sum of probabilities in each number; see native/core/chunk.h.
        softness: [labels, calibration bins], by how much the targets differ from their classes.
    """

    def __init__(self, labels: int, bins: int) -> None:
        self.packed = np.zeros((labels, bins, 2, 2), np.uint64)
        self.softness = np.zeros((labels, bins))
        self.rows = 0
        self.emptied: tuple[Array, Array] | None = None  # counts and probabilities from before

    def counts(self) -> Array:
        counts = self.packed >> np.uint64(kernel.CELL_COUNT_SHIFT)
        return counts if self.emptied is None else counts + self.emptied[0]

    def probabilities(self) -> Array:
        """Sums of probability·2²⁴, of the same shape."""
        sums = self.packed & np.uint64((1 << kernel.CELL_COUNT_SHIFT) - 1)
        return sums if self.emptied is None else sums + self.emptied[1]

    def known(self) -> Array:
        """How many elements of each label have been counted."""
        return np.asarray(self.counts().sum(axis=(1, 2, 3), dtype=np.int64))

    def targets(self) -> Array:
        """Sums of targets, [labels, calibration bins]."""
        return np.asarray(self.counts()[..., 1].sum(axis=2) + self.softness)

    def make_room(self, rows: int) -> None:
        """Empties the table before a number in it overflows."""
        if self.rows + rows > kernel.MAX_ROWS_IN_CELL:
            self._empty(self.counts(), self.probabilities())

    def _empty(self, counts: Array, probabilities: Array) -> None:
        self.emptied = counts, probabilities
        self.packed[...] = 0
        self.rows = 0

    def merge(self, other: Cells) -> None:
        full = self.rows + other.rows > kernel.MAX_ROWS_IN_CELL
        if full or self.emptied is not None or other.emptied is not None:
            self._empty(self.counts() + other.counts(), self.probabilities() + other.probabilities())
        else:
            self.packed += other.packed
            self.rows += other.rows
        self.softness += other.softness
