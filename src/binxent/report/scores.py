"""The figures of a report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binxent.arrays import Array


@dataclass(frozen=True)
class Scores:
    """The figures of a report. Each is an array [labels]; NaN where it is 0/0.

    Attributes:
        known: how many elements of the label were counted.
        positive: how many of these have a target above ½.
        predicted: how many are predicted: the probability exceeds the threshold.
        found: how many are positive and predicted.
        loss: the mean loss; or what another reduction gives.
        base_rate: the mean of the targets.
        base_rate_loss: the loss, reduced alike, of the best constant prediction under the same weights and options.
            Without them that is the base rate, and the loss its entropy. NaN with ``focal="p_t"`` where a target was
            soft, unless ``gamma`` and ``alpha`` are off: the sums of a report do not give it then.
        calibration_error: the expected calibration error, ECE: the mean distance, over bins of equal width weighted by
            their counts, of mean probability and mean target.
        precision: found / predicted.
        recall: found / positive.
        average_precision: the mean of the precision at each positive.
        average_precision_error: a bound of its error; see ``Report``.
    """

    known: Array
    positive: Array
    predicted: Array
    found: Array
    loss: Array
    base_rate: Array
    base_rate_loss: Array
    calibration_error: Array
    precision: Array
    recall: Array
    average_precision: Array
    average_precision_error: Array

    def __repr__(self) -> str:
        """A table, where rich is installed, which the extra ``cli`` brings."""
        try:
            from binxent.commands import table
        except ImportError:
            return f"Scores(labels={len(self.loss)})"
        return table.of_scores(self)

    def as_dict(self) -> dict[str, list[float | int | None]]:
        """Lists that JSON can hold: None in the place of NaN."""
        return {
            field.name: [None if value != value else value for value in getattr(self, field.name).tolist()]
            for field in fields(self)
        }
