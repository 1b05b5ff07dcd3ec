"""Counts scores in bins that follow the data, so that a report's memory is bounded.

A bin holds the scores with the same high bits (of their distance from the middle: from 0 for a logit, from ½ for a
probability, which has two tails). There are bins only where there are scores, as narrow as the table has room for: all
drop the same number of low bits. That number depends on the scores and not on their order, so the tables of shards,
merged in any order, are the table of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binxent import kernel

if TYPE_CHECKING:
    from binxent.arrays import Array

_PAGES = 1 << (32 - kernel.SCORE_PAGE_SHIFT)
_BLOCK = 1 << 18  # bins that are processed at once
_MOST_ROWS = (1 << 32) - 1  # rows that a counter of the table can count
_IN_CACHE, _MOST = 1 << 19, 1 << 22  # bins over all labels: 4 MiB, and 32
_FINE, _COARSE = 1 << 16, 1 << 12  # bins of a label


def default_bins(labels: int) -> int:
    """How many bins a label has: for few labels what fits into the cache, for many what the bound of memory allows."""
    bins = _FINE
    while bins > 1 and labels * bins > (_IN_CACHE if bins > _COARSE else _MOST):
        bins //= 2
    return bins


def score_keys(scores: Array, probabilities: bool) -> Array:
    """uint32 numbers that rise with the scores, as native/lanes/report.cpp makes them: one for each float32."""
    upper = scores >= 0.5 if probabilities else scores >= 0
    with np.errstate(over="ignore"):
        distance = np.where(upper, 1 - scores, scores) if probabilities else np.abs(scores)
        bits = np.ascontiguousarray(distance, np.float32).view(np.uint32)
    outward = np.float32(0.5).view(np.uint32) - bits if probabilities else bits
    keys: Array = np.where(upper, np.uint32(1 << 31) + outward, np.uint32((1 << 31) - 1) - outward)
    return keys


def _wider(keys: Array, counts: Array, shift: int) -> tuple[Array, Array]:
    """Adds up counts [labels, classes, bins] of rising keys into the bins that drop ``shift`` bits of a key."""
    if len(keys) == 0:
        return keys, counts
    keys = keys >> np.uint64(shift) << np.uint64(shift)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], counts if len(first) == len(keys) else np.add.reduceat(counts, first, axis=2)


class ScoreBins:
    """The table of one report.

    Attributes:
        bins: of a label, for either class.
        shift: how many low bits of a key a bin drops.
    """

    def __init__(self, labels: int, bins: int) -> None:
        self.bins, self.shift, self.rows = bins, 0, 0
        self._groups = np.empty(0, np.uint64)  # keys without the bits of a page, or of a bin where that is larger
        self._places = np.full(_PAGES, -1, np.int32)  # where the bins of each page begin
        self._padded = np.zeros((labels, 2 * bins + kernel.SCORE_PADDING), np.uint32)
        self._emptied: tuple[Array, Array] | None = None  # keys, and counts in uint64

    @property
    def operand(self) -> tuple[int, int, int]:
        """What ``kernel.count`` takes: where the bins of each page begin; a bin's bits; how many bins there are."""
        return self._places.ctypes.data, min(self.shift, kernel.SCORE_PAGE_SHIFT), self.bins

    @property
    def address(self) -> int:
        return int(self._padded.ctypes.data)

    @property
    def _table(self) -> Array:
        """The counters, [labels, positive, bins]."""
        return self._padded[:, : 2 * self.bins].reshape(len(self._padded), 2, self.bins)

    def blocks(self) -> list[slice]:
        """The labels in slices that are processed at once, so that many take no more memory than few."""
        step = max(1, _BLOCK // self.bins)
        return [slice(first, first + step) for first in range(0, len(self._padded), step)]

    def _group_shift(self, shift: int) -> int:
        return max(shift, kernel.SCORE_PAGE_SHIFT)

    def _bin_keys(self) -> Array:
        """The least key of each bin that is in use, in the order of the table."""
        group = self._group_shift(self.shift)
        inside = np.arange(1 << (group - self.shift), dtype=np.uint64) << np.uint64(self.shift)
        return np.asarray((self._groups << np.uint64(group))[:, None] + inside).reshape(-1)

    def _bin_of(self, keys: Array) -> Array:
        """The place in the table of each key's bin, which must exist."""
        keys = keys.astype(np.int64)
        inside = keys & ((1 << kernel.SCORE_PAGE_SHIFT) - 1)
        return np.asarray(self._places[keys >> kernel.SCORE_PAGE_SHIFT] + (inside >> self.operand[1]))

    def _counted(self, labels: slice = slice(None)) -> tuple[Array, Array]:
        """The keys of the bins, which rise, and the counts of the table in this order."""
        keys = self._bin_keys()
        order = np.argsort(keys)
        return keys[order], self._table[labels][:, :, order]

    def counts(self, labels: slice = slice(None)) -> Array:
        """[labels, positive, bins] of some labels, in the order of rising scores."""
        keys, counts = self._counted(labels)
        if self._emptied is not None:
            counts = counts.astype(np.uint64)
            before, emptied = _wider(self._emptied[0], self._emptied[1][labels], self.shift)
            counts[:, :, np.searchsorted(keys, before)] += emptied
        return counts

    def make_room(self, rows: int) -> None:
        """Empties the counters before they overflow."""
        if self.rows + rows > _MOST_ROWS:
            self._emptied = np.sort(self._bin_keys()), self.counts().astype(np.uint64)
            self._padded[...] = 0
            self.rows = 0

    def admit(self, keys: Array, shift: int = 0) -> None:
        """Makes bins for these keys, which drop ``shift`` bits at least. If the table is full, all bins drop more."""
        used = np.zeros(_PAGES, bool)
        used[keys.astype(np.int64) >> kernel.SCORE_PAGE_SHIFT] = True
        keys = np.flatnonzero(used).astype(np.uint64) << np.uint64(kernel.SCORE_PAGE_SHIFT)
        mine = self._groups << np.uint64(self._group_shift(self.shift))
        shift = max(shift, self.shift)
        while True:
            group = self._group_shift(shift)
            wanted = np.union1d(mine >> np.uint64(group), keys >> np.uint64(group))
            if len(wanted) << (group - shift) <= self.bins:
                break
            shift += 1
        if shift == self.shift:
            self._groups = np.concatenate([self._groups, np.setdiff1d(wanted, self._groups)])
            self._place()
            return
        keys = self._bin_keys()
        order = np.argsort(keys)
        self.shift, self._groups = shift, wanted
        self._place()
        for labels in self.blocks():
            wider, counts = _wider(keys[order], self._table[labels][:, :, order], shift)
            self._table[labels] = 0
            self._table[labels][:, :, self._bin_of(wider)] = counts

    def _place(self) -> None:
        group = self._group_shift(self.shift)
        pages = 1 << (group - kernel.SCORE_PAGE_SHIFT)  # of a group
        at = np.arange(len(self._groups), dtype=np.int32) << np.int32(group - self.shift)
        for page in range(pages):
            self._places[(self._groups * np.uint64(pages) + np.uint64(page)).astype(np.int64)] = at

    def add(self, scores: Array, classes: Array, probabilities: bool) -> None:
        """Counts scores [rows, labels] of the classes 0 and 1; those of another are not counted."""
        known = classes < 2
        keys = score_keys(scores, probabilities)
        self.make_room(len(scores))
        self.admit(keys)  # unknown elements get bins too, as in the kernel: the bins must not depend on who counts
        keys = keys[known]
        label = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)[known]
        place = label * self._padded.shape[1] + classes[known].astype(np.int64) * self.bins + self._bin_of(keys)
        np.add.at(self._padded.reshape(-1), place, np.uint32(1))
        self.rows += len(scores)

    def merge(self, other: ScoreBins) -> None:
        self.make_room(other.rows)
        self.admit(other._bin_keys(), other.shift)
        for labels in self.blocks():
            keys, counts = _wider(*other._counted(labels), self.shift)
            self._table[labels][:, :, self._bin_of(keys)] += counts
        self.rows += other.rows
        if other._emptied is not None:
            keys = np.sort(self._bin_keys())
            total = np.zeros((len(self._padded), 2, len(keys)), np.uint64)
            for emptied in (self._emptied, other._emptied):
                if emptied is not None:
                    before, counts = _wider(*emptied, self.shift)
                    total[:, :, np.searchsorted(keys, before)] += counts
            self._emptied = keys, total
