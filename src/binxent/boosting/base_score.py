"""The logit at which a training starts: the best one that is the same for every sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from binxent import definition, formula, options
from binxent.boosting import best_logit
from binxent.boosting.loss import numbers, of_labels
from binxent.call import Operands
from binxent.options import RefusalError

Array = Any


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
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: Array | None = None,
    check_targets: bool = False,
) -> Any:
    """The logit that has the least loss if every prediction is the same, for each label.

    ``log(Σ w·p·y / Σ w·(1−y))`` over the known labels. A built-in objective starts there; with a custom one a library
    starts elsewhere, and its curves differ from the first round on.

    Args:
        labels: ``[samples]`` or ``[samples, labels]``; any dtype of numbers.
        weight, pos_weight, neg_weight, mask: as in ``objective``.
        sample_weight: one for each sample.
        ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative, margin, focal: as in ``objective``.
        check_targets: likewise; a mask that is neither 0 nor 1 is refused too.

    Returns:
        A float, or one for each label: for ``base_score`` of XGBoost, ``init_score`` of LightGBM, ``baseline`` of
        CatBoost.

    Raises:
        TypeError, ValueError: an argument is no array of numbers, its shape does not fit, or a label has no positive or
            no negative among its known values, so that its logit would be infinite; with a ``margin``, which bounds
            what negatives add, so many positives that the loss falls without end.

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
    family = options.focal(alpha, gamma_positive, gamma_negative, margin, focal)
    terms = options.checked_terms(ignore_index, label_smoothing, gamma, y.dtype.name, family)
    given = {"weight": weight, "pos_weight": pos_weight, "neg_weight": neg_weight, "mask": mask}
    arrays: dict[str, Any] = {name: numbers(name, array) for name, array in given.items()}
    for name, array in arrays.items():
        if array is not None:
            options.check_broadcast(name, array.shape, y.shape)
    known = formula.kept(y, None if mask is None else arrays["mask"] != 0, terms.ignore_index)
    if check_targets:
        refused = Operands(y, y, pos_weight=arrays["pos_weight"], mask=arrays["mask"], neg_weight=arrays["neg_weight"])
        if wrong := definition.wrong_element(refused, known):
            raise of_labels(ValueError(wrong))
    w = np.ones(y.shape) if weight is None else np.ones(y.shape) * arrays["weight"]
    if sample_weight is not None:
        options.check_sample_weight(np.shape(sample_weight), y.shape)
        w = w * np.asarray(sample_weight).reshape((-1,) + (1,) * (y.ndim - 1))
    w = w if known is None else np.where(known, w, 0.0)
    soft = y.astype(np.float64) if known is None else np.where(known, y, 0.0)
    up, down = ((1.0 if arrays[name] is None else arrays[name]) for name in ("pos_weight", "neg_weight"))
    positive, negative = formula.coefficients(soft, up, terms.label_smoothing, down)
    share, other_share = (1.0, 1.0) if terms.alpha is None else (terms.alpha, 1 - terms.alpha)
    if terms.focal == "p_t":  # whose α multiplies the whole
        shares = formula.coefficients(soft, share, terms.label_smoothing, other_share)
        share = other_share = shares[0] + shares[1]
    ups, downs = (w * share * positive).sum(0), (w * other_share * negative).sum(0)
    _refuse(
        ~((ups > 0) & (downs > 0)),
        "is not known both as positive and as negative, with a weight for each; leave it out, or smooth it",
    )
    if terms.focal == "p_t" and terms.gamma > 0:  # without a power both sums are what they are for any loss
        score = best_logit.of_p_t(soft, w * up, w * down, terms)
    elif terms.gamma > 0 or terms.gamma_negative is not None or terms.margin > 0:
        score = best_logit.of_branches(ups / (ups + downs), terms)
        endless = score > best_logit.FARTHEST - 1  # of a margin alone: it bounds what wrong negatives add
        _refuse(
            endless & (terms.margin > 0),
            "has so many positives that its loss falls without end; expected a smaller margin, or a gamma_positive",
        )
    else:
        score = formula.log_odds(np, ups, downs)
    return float(score) if y.ndim == 1 else score


def _refuse(wrong: Array, message: str) -> None:
    """Refuses the first label that is wrong."""
    if np.any(wrong):
        which = f"label {int(np.flatnonzero(wrong)[0])}" if np.ndim(wrong) else "the label"
        raise RefusalError("labels", f"{which} {message}")
