"""The scores in order, which average precision needs: kept as they are while they are few, and then in bins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binxent.report import measures
from binxent.report.score_bins import ScoreBins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from binxent.arrays import Array

UNKNOWN = 2  # beside the classes 0 and 1

_LABELS = 16  # that are gathered at once: a row of them is a line of the cache


class Ranking:
    """The scores of one report, [rows, labels].

    Args:
        labels: how many there are.
        probabilities: whether the scores are.
        most: how many scores are kept, of all labels together.
        bins: of a label, for more.
    """

    def __init__(self, labels: int, probabilities: bool, most: int, bins: int) -> None:
        self.labels, self.probabilities, self.most, self.bins = labels, probabilities, most, bins
        self._kept: list[tuple[Array, Array]] = []  # scores, and their classes
        self._elements = 0
        self._binned: ScoreBins | None = None
        self._one_bin = ScoreBins(labels, 1)  # for the kernel, which adds to some table, while scores are kept
        self._one_bin.admit(np.array([0, (1 << 32) - 1]))

    def bins_for(self, scores: Array) -> ScoreBins:
        """The table that the kernel is to add these scores to."""
        if self._binned is None and self._elements + scores.size > self.most:
            self.stop_keeping()
        if self._binned is None:
            return self._one_bin
        self._binned.make_room(len(scores))
        return self._binned

    def counted(self, scores: Array, labels: Array, known: Array | None) -> None:
        """Notes what the kernel has added, and keeps it where it is to be kept."""
        if self._binned is not None:
            self._binned.rows += len(scores)
            return
        classes = (labels > 0.5).astype(np.uint8)
        if known is not None:
            classes[known == 0] = UNKNOWN
        self._kept.append((scores.astype(np.float64 if scores.dtype == np.float64 else np.float32), classes))
        self._elements += scores.size

    def stop_keeping(self) -> None:
        """Counts in bins what has been kept, and what follows."""
        if self._binned is None:
            self._binned = ScoreBins(self.labels, self.bins)
            self._bin(self._kept)
            self._kept, self._elements = [], 0

    def _bin(self, kept: list[tuple[Array, Array]]) -> None:
        assert self._binned is not None
        for scores, classes in kept:
            self._binned.add(scores, classes, self.probabilities)

    def merge(self, other: Ranking) -> None:
        if other._binned is not None or self._elements + other._elements > self.most:
            self.stop_keeping()
        if self._binned is None:
            self._kept = [*self._kept, *other._kept]
            self._elements += other._elements
            return
        self._bin(other._kept)
        if other._binned is not None:
            self._binned.merge(other._binned)

    def average_precision(self) -> tuple[Array, Array]:
        """Of each label, and how far it may be off: not at all, where the scores have been kept."""
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
                for scores, classes in self._kept
            ]
            for label in range(min(_LABELS, self.labels - first)):
                rows = [(scores[label], classes[label]) for scores, classes in parts]
                negatives, positives = ([scores[classes == c] for scores, classes in rows] for c in (0, 1))
                yield _joined(negatives), _joined(positives)


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)
