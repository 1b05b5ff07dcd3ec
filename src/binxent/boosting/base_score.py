"""The logit at which a training starts: the best one that is the same for every sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from binxent import formula, options
from binxent.boosting.loss import numbers
from binxent.options import RefusalError

Array = Any
FARTHEST = 100.0  # beyond this logit no float32 gradient of a negative is left
HALVINGS = 60


def base_score(
    labels: Array,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = math.nan,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Any:
    """The logit that has the least loss if every prediction is the same, for each label.

    ``log(Σ w·p·y / Σ w·(1−y))`` over the known labels. A built-in objective starts there; with a custom one a library
    starts elsewhere, and its curves differ from the first round on.

    Args:
        labels: ``[samples]`` or ``[samples, labels]``; any dtype of numbers.
        weight, pos_weight, mask: as in ``objective``.
        sample_weight: one for each sample.
        ignore_index, label_smoothing, gamma: as in ``objective``.

    Returns:
        A float, or one for each label: for ``base_score`` of XGBoost, ``init_score`` of LightGBM, ``baseline`` of
        CatBoost.

    Raises:
        TypeError, ValueError: an argument is no array of numbers, its shape does not fit, or a label has no positive or
            no negative among its known values, so that its logit would be infinite.

    Examples:
        >>> import numpy as np
        >>> round(base_score(np.array([1, 0, 0, 0])), 4)
        -1.0986
        >>> base_score(np.array([[1, 0], [0, np.nan], [0, 1]])).round(4)
        array([-0.6931,  0.    ])
    """
    y = numbers("labels", labels)
    if y is None or y.ndim not in (1, 2):
        raise RefusalError("labels", f"shape {np.shape(labels)}; expected [samples] or [samples, labels]")
    terms = options.checked_terms(ignore_index, label_smoothing, gamma, y.dtype.name)
    known = formula.kept(y, None if mask is None else np.asarray(mask) != 0, terms.ignore_index)
    given = {"weight": weight, "pos_weight": pos_weight, "mask": mask}
    for name, array in given.items():
        if array is not None:
            options.check_broadcast(name, np.shape(array), y.shape)
    one, none = np.ones(y.shape), np.zeros(y.shape)
    w = one if weight is None else one * numbers("weight", weight)
    if sample_weight is not None:
        options.check_sample_weight(np.shape(sample_weight), y.shape)
        w = w * np.asarray(sample_weight).reshape((-1,) + (1,) * (y.ndim - 1))
    positive, negative = formula.coefficients(
        np.where(known, y, none) if known is not None else y.astype(np.float64),
        numbers("pos_weight", pos_weight),
        terms.label_smoothing,
    )
    w = w if known is None else np.where(known, w, none)
    ups, downs = (w * positive).sum(0), (w * negative).sum(0)
    without = ~((ups > 0) & (downs > 0))
    if without.any():
        which = f"label {int(np.flatnonzero(without)[0])}" if y.ndim == 2 else "the label"
        raise RefusalError(
            "labels", f"{which} is not known both as positive and as negative; leave it out, or smooth it"
        )
    score = formula.log_odds(np, ups, downs)
    if terms.gamma > 0:
        score = _least(ups / (ups + downs), terms.gamma)
    return float(score) if y.ndim == 1 else score


def _least(share: Array, gamma: float) -> Array:
    """The logit of the least focal loss, where a share of the labels is positive: there its gradient changes sign."""
    low, high = np.full_like(share, -FARTHEST), np.full_like(share, FARTHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        falls = formula.logits_gradient(np, middle, share, gamma=gamma) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    return (low + high) / 2
