"""The loss on NumPy arrays, with torch's parameters, and ``value_and_grad`` to train without an autograd framework.

float16, float32, float64 and (through ``ml_dtypes``) bfloat16; targets also bool, uint8, int8, int16, int32, int64.
Arrays of any layout and byte order are read in place where the processor can.
"""

from binxent.numpy.functional import binary_cross_entropy, binary_cross_entropy_with_logits, value_and_grad
from binxent.numpy.losses import BCELoss, BCEWithLogitsLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "value_and_grad",
]
