"""The loss on JAX arrays: pure functions, and callables that are pytrees.

On CPU the kernel runs inside compiled programs, on XLA's own threads; elsewhere XLA compiles the formula. Every
transformation of JAX applies, in any order. An exported program holds the formula, and runs without binxent.
"""

from binxent.jax.counting import count
from binxent.jax.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.jax.linear import linear_binary_cross_entropy_with_logits
from binxent.jax.losses import BCELoss, BCEWithLogitsLoss
from binxent.linear import LinearBCEOptions

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "LinearBCEOptions",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "count",
    "linear_binary_cross_entropy_with_logits",
]


def __dir__() -> list[str]:
    """The public names alone, which a prompt then completes."""
    return __all__
