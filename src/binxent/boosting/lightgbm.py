"""What LightGBM calls: ``objective`` and ``feval`` of ``train``, and those of its scikit-learn API.

Predictions are float64, ``[samples]`` or, column after column, ``[samples, num_class]``; gradients likewise. A Dataset
holds one label for each sample, so those of several outputs have to be given to the objective.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent.boosting.loss import numbers

if TYPE_CHECKING:
    from binxent.boosting.loss import Array, BoostedLoss


class Objective:
    """A function of (predictions, Dataset), or of (labels, predictions, weight)."""

    def __init__(self, loss: BoostedLoss) -> None:
        self.loss = loss

    def __call__(self, y_true: Array, y_pred: Any, weight: Array | None = None) -> tuple[Array, Array]:
        return self.loss.derivatives(*_asked(self.loss, y_true, y_pred, weight))


class Metric:
    """A function like the objective, which returns (name, value, whether more is better)."""

    def __init__(self, loss: BoostedLoss, name: str) -> None:
        self.loss = loss
        self.__name__ = name

    def __call__(self, y_true: Array, y_pred: Any, weight: Array | None = None) -> tuple[str, float, bool]:
        return self.__name__, self.loss.mean(*_asked(self.loss, y_true, y_pred, weight)), False


def _asked(loss: BoostedLoss, first: Array, second: Any, weight: Array | None) -> tuple[Any, Any, Any]:
    """Logits, labels and the samples' weights, whoever asks."""
    if hasattr(second, "get_label"):
        return first, loss.labels_of(second, second.get_label), second.get_weight()
    return second, loss.labels_of(None, lambda: numbers("y_true", first)), weight
