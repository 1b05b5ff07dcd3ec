"""The loss in MindSpore: drop-ins for two functions and two cells of ``mindspore.mint.nn``."""

from binxent.mindspore.cells import BCELoss, BCEWithLogitsLoss
from binxent.mindspore.counting import count
from binxent.mindspore.functional import binary_cross_entropy, binary_cross_entropy_with_logits

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "count"]


def __dir__() -> list[str]:
    """The public names alone, which a prompt then completes."""
    return __all__
