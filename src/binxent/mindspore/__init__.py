"""The loss in MindSpore: drop-ins for the two functions and two cells of ``mindspore.mint.nn``."""

from __future__ import annotations

from mindspore import Tensor, mint

from binxent.mindspore.graph import operator

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
) -> Tensor:
    return operator(False, reduction)(input, target, weight, sample_weight, pos_weight)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    return operator(True, reduction)(input, target, weight, sample_weight, pos_weight)


class BCEWithLogitsLoss(mint.nn.BCEWithLogitsLoss):
    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__(weight, reduction, pos_weight)
        self.reduction = reduction

    def construct(self, *operands, **options):
        return self._loss(*operands, **options)

    def _loss(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return operator(False, self.reduction)(input, target, self.weight, sample_weight, self.pos_weight)


class BCELoss(mint.nn.BCELoss):
    def __init__(
        self, weight: Tensor | None = None, reduction: str = "mean", *, pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(weight, reduction)
        self.pos_weight = pos_weight

    def construct(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return operator(True, self.bce_loss.reduction)(
            input, target, self.bce_loss.weight, sample_weight, self.pos_weight
        )
