"""The loss in MindSpore: drop-ins for two functions and two cells of ``mindspore.mint.nn``.

On CPU the kernel computes it: in PyNative mode under the tape of ``eager``, in compiled graphs through the operators of
``graph``. Other devices, higher derivatives and the gradients to target and weights take the formula, which
``composite`` computes with MindSpore's own operations.
"""

from __future__ import annotations

from binxent.mindspore.cells import BCELoss, BCEWithLogitsLoss
from binxent.mindspore.functional import binary_cross_entropy, binary_cross_entropy_with_logits

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
