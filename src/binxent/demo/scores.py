"""How well a label is found: loss, precision and recall on the test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from binxent.numpy import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from binxent.demo.digits import Array


@dataclass(frozen=True)
class Scores:
    """Each is [labels], float64; NaN where it is 0/0, as the precision of a label that was never predicted."""

    loss: Array
    precision: Array
    recall: Array


def score(logits: Array, targets: Array) -> Scores:
    predicted = logits > 0  # a probability above one half
    right = (predicted & targets).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return Scores(
            loss=binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(axis=0, dtype=np.float64),
            precision=right / predicted.sum(axis=0),
            recall=right / targets.sum(axis=0),
        )
