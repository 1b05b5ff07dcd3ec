"""The loss on JAX arrays: pure functions, and callables that are pytrees.

On CPU the kernel runs inside compiled programs, on XLA's own threads; elsewhere XLA compiles the formula. Every
transformation of JAX applies, in any order. An exported program holds the formula, and runs without binxent.
"""

from binxent.jax.counting import count
from binxent.jax.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from binxent.jax.losses import BCELoss, BCEWithLogitsLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "count"]
