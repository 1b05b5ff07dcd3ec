"""``objective`` and ``metric``, for the library that is named."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from binxent.boosting import catboost, lightgbm, xgboost
from binxent.boosting.loss import BoostedLoss
from binxent.options import RefusalError

if TYPE_CHECKING:
    from binxent.boosting.loss import Array, Labels

LIBRARIES = ("xgboost", "lightgbm", "catboost")


def objective(
    library: str,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    labels: Labels | None = None,
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
    hessian: str = "expected",
    min_hessian: float = 0.0,
    multi_target: bool = False,
) -> Any:
    """The loss as an objective of a library for gradient boosting: its gradient and Hessian for the present logits.

    ``w · [(1−y)·σ(x) − p·y·σ(−x)]`` and ``w · [(1−y) + p·y]·σ(x)·σ(−x)`` for each sample and label, where w is the
    product of ``weight`` and of the weight that the library has for the sample.

    Args:
        library: ``"xgboost"``, ``"lightgbm"`` or ``"catboost"``.
        weight: a number, one for each label, or ``[samples, labels]``.
        pos_weight: likewise; multiplies the loss of positives.
        labels: the labels, where the library cannot hold them: ``[samples, labels]``, or a function that returns them
            for a data set. LightGBM knows one label for each sample. By default, those of the data set.
        mask: broadcasts to ``[samples, labels]``; what is 0 or False is missing, and has no derivatives.
        ignore_index: labels with this value are missing, too. XGBoost and CatBoost refuse NaN, so there it is a
            number such as −1.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the label (Szegedy et al., 2016).
        gamma: γ ≥ 0 of the focal loss (Lin et al., 2017).
        alpha, gamma_positive, gamma_negative, margin, focal: as in ``binary_cross_entropy_with_logits``.
        neg_weight: like ``pos_weight``; multiplies the loss of negatives.
        check_targets: whether a label outside [0, 1], such as a class index, is refused, and a negative ``pos_weight``
            or ``neg_weight``; missing labels may hold anything.
        hessian: ``"expected"`` or ``"exact"``, which differ with a power or a margin only: see
            ``binxent.numpy.grad_and_hess``. The exact one may be negative, and then a library stops splitting or
            diverges.
        min_hessian: the least Hessian of a label that is known, before its weights. XGBoost's own objective has 1e-16.
        multi_target: for CatBoost, whether there are several targets.

    Returns:
        A callable for ``obj`` or ``objective`` of XGBoost and LightGBM, in ``train`` or in the scikit-learn API; an
        object for ``loss_function`` of CatBoost.

    Raises:
        TypeError, ValueError: an argument is out of its range, or the library cannot use it; when it is called, a shape
            does not fit to the predictions.

    Examples:
        >>> import numpy as np
        >>> focal = objective("xgboost", gamma=2.0, pos_weight=3.0)
        >>> gradient, hessian = focal(np.array([1.0, 0.0]), np.zeros(2))
        >>> print(gradient.round(4), hessian.round(4))
        [-0.8949  0.2983] [1.1974 0.3991]
    """
    loss = _loss(
        library, weight=weight, pos_weight=pos_weight, labels=labels, mask=mask, ignore_index=ignore_index,
        label_smoothing=label_smoothing, gamma=gamma, alpha=alpha, gamma_positive=gamma_positive,
        gamma_negative=gamma_negative, margin=margin, focal=focal, neg_weight=neg_weight, check_targets=check_targets,
        hessian=hessian, min_hessian=min_hessian,
    )  # fmt: skip
    if multi_target and library != "catboost":
        raise RefusalError("multi_target", f"{library} tells the number of outputs by itself; expected False")
    if library == "catboost":
        if multi_target:
            return catboost.for_several_targets(catboost.MultiTargetObjective, "Objective")(loss)
        return catboost.Objective(loss)
    return xgboost.Objective(loss) if library == "xgboost" else lightgbm.Objective(loss)


def metric(
    library: str,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    labels: Labels | None = None,
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
    name: str = "bce",
    multi_target: bool = False,
) -> Any:
    """The mean loss as a metric of a library for gradient boosting, for a model whose predictions are logits.

    The sum of the weighted losses of the known labels, divided by the sum of their weights; ``pos_weight``,
    ``neg_weight`` and ``alpha`` do not count there. Less is better.

    Args:
        library, weight, pos_weight, labels, mask: as in ``objective``; labels and mask are those of the data set
            that is evaluated.
        ignore_index, label_smoothing, gamma, alpha, gamma_positive, gamma_negative, margin, focal: likewise.
        neg_weight, check_targets, multi_target: likewise.
        name: under which the library reports it.

    Returns:
        A callable for ``custom_metric`` of XGBoost's ``train`` or ``feval`` of LightGBM's, or for ``eval_metric`` of
        their scikit-learn API; an object for ``eval_metric`` of CatBoost.

    Raises:
        TypeError, ValueError: as ``objective``.

    Examples:
        >>> import numpy as np
        >>> metric("lightgbm")(np.array([1.0, 0.0]), np.zeros(2))
        ('bce', 0.6931471805599453, False)
    """
    loss = _loss(
        library, weight=weight, pos_weight=pos_weight, labels=labels, mask=mask, ignore_index=ignore_index,
        label_smoothing=label_smoothing, gamma=gamma, alpha=alpha, gamma_positive=gamma_positive,
        gamma_negative=gamma_negative, margin=margin, focal=focal, neg_weight=neg_weight, check_targets=check_targets,
    )  # fmt: skip
    if library == "catboost":
        kind = catboost.for_several_targets(catboost.Metric, "Metric") if multi_target else catboost.Metric
        return kind(loss, name)
    if multi_target:
        raise RefusalError("multi_target", f"{library} tells the number of outputs by itself; expected False")
    return xgboost.Metric(loss, name) if library == "xgboost" else lightgbm.Metric(loss, name)


def _loss(library: object, **given: Any) -> BoostedLoss:
    if library not in LIBRARIES:
        raise RefusalError("library", f"{library!r}; expected one of {LIBRARIES}")
    loss = BoostedLoss(**given)
    if library == "catboost":
        catboost.check(loss)
    return loss
