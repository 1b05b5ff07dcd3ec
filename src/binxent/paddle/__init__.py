"""The loss in PaddlePaddle: drop-ins for Paddle's two functions and two layers."""

from binxent.paddle.counting import count
from binxent.paddle.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.paddle.layers import BCELoss, BCEWithLogitsLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "count"]


def __dir__() -> list[str]:
    """The public names alone, which a prompt then completes."""
    return __all__
