"""Warns of what can be scored and is hardly meant: probabilities taken as logits, and files in the wrong order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binxent import formula

if TYPE_CHECKING:
    from binxent.arrays import Array


def is_hard(array: Array) -> bool:
    """Whether every element is 0 or 1."""
    return bool(((array == 0) | (array == 1)).all())


class Suspicions:
    """Looks at the parts of the files, in any thread and order, until nothing is suspicious any more."""

    def __init__(self, probabilities: bool, ignore_index: float | None) -> None:
        self.probabilities, self.ignore_index = probabilities, ignore_index
        self.could_be_probabilities = not probabilities
        self.hard_predictions = self.hard_labels = True

    def look(self, predictions: Array, labels: Array, mask: Array | None) -> None:
        if not (self.could_be_probabilities or self.hard_predictions):
            return
        known = formula.kept(labels, None if mask is None else mask != 0, self.ignore_index)
        if known is not None:
            predictions, labels = predictions[known], labels[known]
        if self.could_be_probabilities and np.size(predictions):
            self.could_be_probabilities = bool(predictions.min() >= 0 and predictions.max() <= 1)
        self.hard_predictions = self.hard_predictions and is_hard(predictions)
        self.hard_labels = self.hard_labels and is_hard(labels)

    def warning(self, predictions: str, labels: str) -> str | None:
        if self.hard_predictions and not self.hard_labels:
            return (
                f"every prediction, in {predictions}, is 0 or 1, and the labels, in {labels}, are not: "
                "are the files in the wrong order? The predictions come first"
            )
        if self.could_be_probabilities:
            return (
                f"every prediction, in {predictions}, lies between 0 and 1: if these are probabilities and not logits, "
                "score them with --probabilities"
            )
        return None
