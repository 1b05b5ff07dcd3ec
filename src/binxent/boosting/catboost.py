"""What CatBoost calls: methods of an objective and of a metric.

It maximises, so its derivatives have the opposite sign. It asks for derivatives in pieces, and for several targets
sample by sample, and does not say of which samples. So only what holds for every sample can be given: no mask, and no
labels.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from binxent.boosting.loss import numbers
from binxent.options import RefusalError

if TYPE_CHECKING:
    from binxent.boosting.loss import Array, BoostedLoss


def check(loss: BoostedLoss) -> None:
    for name in ("mask", "labels"):
        if getattr(loss, name) is not None:
            raise RefusalError(
                name, "CatBoost does not say for which samples it asks; mark missing labels by ignore_index=-1"
            )
    for name in ("weight", "pos_weight", "neg_weight"):
        array = getattr(loss, name)
        if array is not None and array.ndim > 1:
            raise RefusalError(name, f"shape {array.shape}; expected a number, or one for each target")


def for_several_targets(kind: type, role: str) -> type:
    """The class as a subclass of CatBoost's own, by which it knows that there are several targets."""
    catboost = sys.modules.get("catboost")
    if catboost is None:
        raise RefusalError(
            "multi_target", f"CatBoost has a class for such {role}s; expected `import catboost` before this"
        )
    base: type = getattr(catboost, f"MultiTargetCustom{role}")
    return type(kind.__name__, (kind, base), {})


class Objective:
    """``loss_function`` for one target."""

    def __init__(self, loss: BoostedLoss) -> None:
        self.loss = loss

    def calc_ders_range(self, approxes: Array, targets: Array, weights: Array | None) -> list[tuple[float, float]]:
        gradient, hessian = self.loss.derivatives(np.asarray(approxes), numbers("targets", targets), weights)
        return list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))


class MultiTargetObjective:
    """``loss_function`` for several targets, whose Hessian is diagonal."""

    def __init__(self, loss: BoostedLoss) -> None:
        self.loss = loss

    def calc_ders_multi(self, approxes: Array, targets: Array, weight: float) -> tuple[list[float], Array]:
        logits = np.asarray(approxes)[None]
        gradient, hessian = self.loss.derivatives(logits, numbers("targets", targets), np.array([weight]))
        return (-gradient[0]).tolist(), np.diag(-hessian[0])


class Metric:
    """``eval_metric``, for any number of targets."""

    def __init__(self, loss: BoostedLoss, name: str) -> None:
        self.loss = loss
        self.__name__ = name

    def evaluate(self, approxes: Any, target: Any, weight: Array | None) -> tuple[float, float]:
        logits, labels = np.stack(approxes, -1), np.asarray(target)
        return self.loss.sums(logits, labels if labels.ndim == 1 else labels.T, weight)

    def get_final_error(self, error: float, weight: float) -> float:
        return error / weight if weight else 0.0

    def is_max_optimal(self) -> bool:
        return False
