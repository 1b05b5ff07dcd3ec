"""Computes the figures of each label from its counts.

Arrays are [labels], or [labels, bins]. A figure that is 0/0, as the precision of a label that is never predicted, is
NaN. Average precision follows scikit-learn, with which the tests compare it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from binxent import formula

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 18  # scores that are processed at once


def ratio(part: Array, whole: Array | float) -> Array:
    """part / whole in float64, NaN where it is 0/0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole, dtype=np.float64)


def calibration_error(count: Array, probability: Array, target: Array) -> Array:
    """The expected calibration error (Naeini et al., 2015): Σ of (count/Σ count)·|mean probability − mean target|.

    ``probability`` and ``target`` are sums over the elements of each bin: its term is the difference of the sums.
    """
    return ratio(np.abs(probability - target).sum(axis=-1), count.sum(axis=-1))


def digits(error: float | None, most: int = 4) -> int:
    """How many decimals to show of a figure with this error: the last one is then off by one unit at most."""
    decimals = most
    while error and decimals > 0 and 2 * error > 10.0**-decimals:
        decimals -= 1
    return decimals


def average_precision(negatives: Array, positives: Array) -> float:
    """Average precision of the scores of one label, Σ (recall_k − recall_{k−1}) · precision_k from the highest to the
    lowest: the mean, over the positives, of the precision at each one's score. Sorts both in place."""
    if len(positives) == 0:
        return math.nan
    negatives.sort()
    positives.sort()
    first = np.flatnonzero(np.concatenate([[True], positives[1:] != positives[:-1]]))
    count = np.diff(first, append=len(positives))
    total = 0.0
    for start in range(0, len(first), _BLOCK):
        some = slice(start, start + _BLOCK)
        found = len(positives) - first[some]
        wrong = len(negatives) - np.searchsorted(negatives, positives[first[some]])
        total += float((count[some] * (found / (found + wrong))).sum())
    return total / len(positives)


def binned_average_precision(scores: Array) -> tuple[Array, Array]:
    """Average precision of each label, and how far it may be off.

    ``scores`` are counts, [labels, 2, bins], of negatives and positives, in order of rising scores. Scores of one bin
    count as tied, as equal scores do in scikit-learn. The exact average precision differs from the first result by at
    most the second, whatever the order of the scores within their bins.
    """
    used = scores.any(axis=(0, 1))  # few of the fine bins are in use
    descending = scores[:, :, used][:, :, ::-1].astype(np.float64)
    b, a = descending[:, 0], descending[:, 1]  # negatives and positives of each bin
    negative, positive = np.cumsum(b, axis=1), np.cumsum(a, axis=1)
    with np.errstate(invalid="ignore"):
        tied = a * (positive / (positive + negative))
        # At best all positives of a bin come before its negatives, and are tied: each has the last one's precision.
        best = a * (positive / (positive + (negative - b)))
        # At worst all negatives come first and no positives tie: the i-th has precision (P+i)/(P+i+N) = 1 − N/(P+i+N).
        before = positive - a
        worst = a - negative * formula.harmonic_bound(np, before + negative, a)
    # 0/0 belongs to a bin that is empty, as are all before it.
    tied, best, worst = (np.where(a > 0, part, 0.0).sum(axis=1) for part in (tied, best, worst))
    total = a.sum(axis=1)
    return ratio(tied, total), ratio(np.maximum(best - tied, tied - worst), total)
