"""The loss in PyTorch: drop-ins for torch's two functions and two modules, and the loss of a linear head."""

from binxent.linear import LinearBCEOptions
from binxent.torch.counting import count
from binxent.torch.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.torch.linear import LinearBCEWithLogitsLoss, linear_binary_cross_entropy_with_logits
from binxent.torch.modules import BCELoss, BCEWithLogitsLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "LinearBCEOptions",
    "LinearBCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "count",
    "linear_binary_cross_entropy_with_logits",
]


def __dir__() -> list[str]:
    """The public names alone, which a prompt then completes."""
    return __all__
