"""From counts to figures: what is known of each label once all has been counted.

Arrays are [labels], or [labels, bins]. A figure that is 0/0, as the precision of a label that is never predicted, is
NaN. Each formula follows scikit-learn, which the tests compare with.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 18  # bins that are worked on at once, so that many labels take no more memory than few
_STEPS = 16


def ratio(part: Array, whole: Array | float) -> Array:
    """part / whole in float64, NaN where it is 0/0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole, dtype=np.float64)


def calibration_error(count: Array, probability: Array, target: Array) -> Array:
    """The expected calibration error: Σ over bins of (count/Σ count) · |mean probability − mean target|.

    ``probability`` and ``target`` are sums over the elements of each bin: its term is the difference of the sums.
    """
    return ratio(np.abs(probability - target).sum(axis=-1), count.sum(axis=-1))


def average_precision(scores: Array) -> tuple[Array, Array]:
    """Average precision, Σ (recall_k − recall_{k−1}) · precision_k from the highest score to the lowest, and how far it
    may be off.

    ``scores`` are counts, [labels, 2, bins], of negatives and positives, in order of rising scores. All that fall into
    one bin are taken as tied, as scikit-learn takes equal scores. Whatever their order within their bins is, the
    average precision of the scores themselves lies within the second result of the first.
    """
    labels, _, bins = scores.shape
    value, error = np.empty(labels), np.empty(labels)
    step = max(1, _BLOCK // bins)
    for first in range(0, labels, step):
        value[first : first + step], error[first : first + step] = _average_precision(scores[first : first + step])
    return value, error


def _average_precision(scores: Array) -> tuple[Array, Array]:
    used = scores.any(axis=(0, 1))  # of fine bins few
    descending = scores[:, :, used][:, :, ::-1].astype(np.float64)
    b, a = descending[:, 0], descending[:, 1]  # of a bin: negatives and positives
    negative, positive = np.cumsum(b, axis=1), np.cumsum(a, axis=1)
    with np.errstate(invalid="ignore"):
        tied = a * (positive / (positive + negative))
        # The best order has all of the bin's positives first, and the one that counts most is that they tie.
        best = a * (positive / (positive + (negative - b)))
        # The worst has all negatives first: then the i-th positive finds (P+i)/(P+i+N), which grows with i, so that the
        # sum over i is at least the integral, and that at least its lower sum.
        before = positive - a
        worst = np.zeros_like(a)
        for k in range(_STEPS):
            found = before + a * (k / _STEPS)
            worst += np.where(negative == 0, 1.0, found / (found + negative))
        worst *= a / _STEPS
    # 0/0 is of a bin before which, and in which, there is nothing.
    tied, best, worst = (np.where(a > 0, part, 0.0).sum(axis=1) for part in (tied, best, worst))
    total = a.sum(axis=1)
    return ratio(tied, total), ratio(np.maximum(best - tied, tied - worst), total)
