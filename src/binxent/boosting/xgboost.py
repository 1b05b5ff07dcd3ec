"""What XGBoost calls: ``obj`` and ``custom_metric`` of ``train``, and those of its scikit-learn API.

Both predictions and labels are ``[samples]`` or ``[samples, labels]``, float32, and gradients have that shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent.boosting.loss import numbers

if TYPE_CHECKING:
    from binxent.boosting.loss import Array, BoostedLoss


class Objective:
    """A function of (predictions, DMatrix), or of (labels, predictions, sample_weight)."""

    def __init__(self, loss: BoostedLoss) -> None:
        self.loss = loss

    def __call__(self, y_true: Array, y_pred: Any, sample_weight: Array | None = None) -> tuple[Array, Array]:
        return self.loss.derivatives(*_asked(self.loss, y_true, y_pred, sample_weight))


class Metric:
    """A function of (predictions, DMatrix), which returns a name too, or of (labels, predictions, sample_weight)."""

    def __init__(self, loss: BoostedLoss, name: str) -> None:
        self.loss = loss
        self.__name__ = name  # under which the scikit-learn API reports it

    def __call__(self, y_true: Array, y_pred: Any, sample_weight: Array | None = None) -> Any:
        value = self.loss.mean(*_asked(self.loss, y_true, y_pred, sample_weight))
        return (self.__name__, value) if hasattr(y_pred, "get_label") else value


def _asked(loss: BoostedLoss, first: Array, second: Any, sample_weight: Array | None) -> tuple[Any, Any, Any]:
    """Logits, labels and the samples' weights, whoever asks."""
    if hasattr(second, "get_label"):
        return first, loss.labels_of(second, second.get_label), second.get_weight()
    return second, loss.labels_of(None, lambda: numbers("y_true", first)), sample_weight
