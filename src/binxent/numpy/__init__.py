"""The loss on NumPy arrays, with torch's parameters, and ``value_and_grad`` to train without an autograd framework.

Inputs are float16, float32, float64 or (through ``ml_dtypes``) bfloat16; targets may also be bool, uint8, int8, int16,
int32 or int64. Arrays of any layout are read in place; one of the other byte order is copied.
"""

from binxent.linear import LinearBCEOptions
from binxent.numpy.counting import count
from binxent.numpy.curvature import grad_and_hess
from binxent.numpy.functional import binary_cross_entropy, binary_cross_entropy_with_logits, value_and_grad
from binxent.numpy.linear import linear_binary_cross_entropy_with_logits, linear_value_and_grad
from binxent.numpy.losses import BCELoss, BCEWithLogitsLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "LinearBCEOptions",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "count",
    "grad_and_hess",
    "linear_binary_cross_entropy_with_logits",
    "linear_value_and_grad",
    "value_and_grad",
]


def __dir__() -> list[str]:
    """The public names alone, which a prompt then completes."""
    return __all__
