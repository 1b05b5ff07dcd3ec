"""Holds the scores that average precision needs: as they are while they are few, and then counted in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binxent.report import measures
from binxent.report.score_bins import ScoreBins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from binxent.arrays import Array

UNKNOWN = 2  # the class of an element that is not known; the others are 0 and 1

_LABELS = 16  # labels that are gathered at once: 16 float32 scores are a cache line


class Ranking:
    """The scores of one report, [rows, labels].

    Args:
        labels: their number.
        probabilities: whether the scores are probabilities.
        most: how many scores, of all labels together, are stored as they are.
        bins: how many bins a label has, for more scores.
    """

    def __init__(self, labels: int, probabilities: bool, most: int, bins: int) -> None:
        self.labels, self.probabilities, self.most, self.bins = labels, probabilities, most, bins
        self._stored: list[tuple[Array, Array]] = []  # scores, and their classes
        self._elements = 0
        self._binned: ScoreBins | None = None
        self._one_bin = ScoreBins(labels, 1)  # the kernel adds to it while scores are stored; nobody reads it
        self._one_bin.admit(np.array([0, (1 << 32) - 1]))

    def bins_for(self, scores: Array) -> ScoreBins:
        """The table to which the kernel adds these scores."""
        if self._binned is None and self._elements + scores.size > self.most:
            self.stop_keeping()
        if self._binned is None:
            return self._one_bin
        self._binned.make_room(len(scores))
        return self._binned

    def counted(self, scores: Array, labels: Array, known: Array | None) -> None:
        """Notes what the kernel has counted, and stores the scores as long as there are few."""
        if self._binned is not None:
            self._binned.rows += len(scores)
            return
        classes = (labels > 0.5).astype(np.uint8)
        if known is not None:
            classes[known == 0] = UNKNOWN
        self._stored.append((scores.astype(np.float64 if scores.dtype == np.float64 else np.float32), classes))
        self._elements += scores.size

    def stop_keeping(self) -> None:
        """Counts the stored scores in bins, and those that follow."""
        if self._binned is None:
            self._binned = ScoreBins(self.labels, self.bins)
            self._bin(self._stored)
            self._stored, self._elements = [], 0

    def _bin(self, stored: list[tuple[Array, Array]]) -> None:
        assert self._binned is not None
        for scores, classes in stored:
            self._binned.add(scores, classes, self.probabilities)

    def merge(self, other: Ranking) -> None:
        if other._binned is not None or self._elements + other._elements > self.most:
            self.stop_keeping()
        if self._binned is None:
            self._stored = [*self._stored, *other._stored]
            self._elements += other._elements
            return
        self._bin(other._stored)
        if other._binned is not None:
            self._binned.merge(other._binned)

    def average_precision(self) -> tuple[Array, Array]:
        """The average precision of each label, and a bound of its error, which is 0 while the scores are stored."""
        value, error = np.empty(self.labels), np.zeros(self.labels)
        if self._binned is None:
            value[:] = [measures.average_precision(*columns) for columns in self._columns()]
            error[np.isnan(value)] = np.nan
            return value, error
        for some in self._binned.blocks():
            value[some], error[some] = measures.binned_average_precision(self._binned.counts(some))
        return value, error

    def _columns(self) -> Iterator[tuple[Array, Array]]:
        """The scores of the negatives and of the positives of each label."""
        for first in range(0, self.labels, _LABELS):
            some = slice(first, first + _LABELS)
            parts = [
                (np.ascontiguousarray(scores[:, some].T), np.ascontiguousarray(classes[:, some].T))
                for scores, classes in self._stored
            ]
            for label in range(min(_LABELS, self.labels - first)):
                rows = [(scores[label], classes[label]) for scores, classes in parts]
                negatives, positives = ([scores[classes == c] for scores, classes in rows] for c in (0, 1))
                yield _joined(negatives), _joined(positives)


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)
