"""The loss in PyTorch: drop-ins for torch's two functions and two modules."""

from binxent.torch.counting import count
from binxent.torch.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.torch.modules import BCELoss, BCEWithLogitsLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "count"]
