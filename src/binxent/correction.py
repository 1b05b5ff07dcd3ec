"""Undoes pos_weight at inference: makes calibrated outputs of those of a model that was trained with it.

Where a share r of the labels is positive, the loss with pos_weight p is least at the odds p·r/(1−r): the model's odds
are p times too high.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from binxent import formula
from binxent.arrays import Array, as_array

__all__ = ["correct_logits", "correct_probabilities"]


def correct_logits(logits: Any, pos_weight: Any) -> Array:
    """Returns the calibrated logits, x − log p, of a model that was trained with ``pos_weight``.

    Args:
        logits: [..., labels]; an array, or a tensor in the CPU's memory.
        pos_weight: that of the loss, p; broadcasts to the logits. Where it is 0, as for a label without negatives, the
            result is +∞.

    Returns:
        An array of the logits' dtype (float64 for integers).

    Raises:
        TypeError: an argument holds no numbers.
        ValueError: ``pos_weight`` is negative, or does not broadcast to the logits.

    ``binxent.formula.unweighted_logits(torch, logits, pos_weight)`` does the same to tensors, of any array library.

    Examples:
        >>> import numpy as np
        >>> correct_logits(np.array([1.0, 0.0]), np.array([1.0, 3.0])).round(4)
        array([ 1.    , -1.0986])
    """
    x, p = _corrected("logits", logits, pos_weight)
    with np.errstate(divide="ignore"):
        return np.asarray(formula.unweighted_logits(np, x.astype(np.float64), p)).astype(x.dtype)


def correct_probabilities(probabilities: Any, pos_weight: Any) -> Array:
    """Returns the calibrated probabilities, q / (q + p·(1 − q)), of a model that was trained with ``pos_weight``.

    They are the sigmoid of ``correct_logits``, whose arguments, results and errors are alike. A ValueError also refuses
    probabilities outside [0, 1].

    Examples:
        >>> import numpy as np
        >>> correct_probabilities(np.array([0.5, 0.75]), 3.0)
        array([0.25, 0.5 ])
    """
    q, p = _corrected("probabilities", probabilities, pos_weight)
    if q.size and not (q.min() >= 0 and q.max() <= 1):
        raise ValueError("probabilities: expected numbers between 0 and 1; for logits there is correct_logits")
    with np.errstate(invalid="ignore"):
        return np.asarray(formula.unweighted_probabilities(q.astype(np.float64), p)).astype(q.dtype)


def _corrected(name: str, values: Any, pos_weight: Any) -> tuple[Array, Array]:
    x, p = as_array(name, values), as_array("pos_weight", pos_weight).astype(np.float64)
    if not (p >= 0).all():
        raise ValueError("pos_weight: expected numbers of at least 0")
    if np.broadcast_shapes(x.shape, p.shape) != x.shape:
        raise ValueError(f"pos_weight: shape {p.shape} does not broadcast to that of the {name}, {x.shape}")
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    return x, p
