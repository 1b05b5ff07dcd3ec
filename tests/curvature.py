"""The second derivative that tests compare with, and how far a computed one may be off."""

from __future__ import annotations

from typing import Any

import numpy as np

from binxent import formula

Array = np.ndarray[Any, Any]


def second_derivative(
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    *,
    expects: bool = False,
    wide: Any = np.float64,
) -> tuple[Array, Array]:
    """The definition in ``wide``, and the sum of the sizes of all terms that it adds."""
    x, target = np.asarray(x).astype(wide), np.asarray(target).astype(wide)
    w = np.ones_like(x) if weight is None else np.ones_like(x) * np.asarray(weight).astype(wide)
    if sample_weight is not None:
        w = w * np.asarray(sample_weight).astype(wide).reshape((-1,) + (1,) * (x.ndim - 1))
    p = None if pos_weight is None else np.asarray(pos_weight).astype(wide)
    keep = formula.kept(target, None if mask is None else np.asarray(mask) != 0, ignore_index)
    keep = None if keep is None else np.broadcast_to(keep, x.shape)
    x, target, w = (formula.only(np, keep, operand) for operand in (x, target, w))
    curvature = formula.logits_expected_curvature if expects else formula.logits_curvature
    with np.errstate(all="ignore"):
        exact = curvature(np, x, target, w, p, label_smoothing, gamma)
        positive, negative = (np.abs(w * c) for c in formula.coefficients(target, p, label_smoothing))
        terms = positive * size(x, gamma) + negative * size(-x, gamma)
        if gamma > 0 and expects:
            terms = (positive + negative) * formula.logits_expected_curvature(np, x, target, gamma=gamma)
    return exact, terms


def size(x: Array, gamma: float) -> Array:
    """The sizes of the terms of a positive's second derivative, added."""
    up, down = formula.sigmoids(np, x)
    if gamma == 0:
        return up * down
    finite = np.where(np.isinf(x), 0, x)
    s, power = formula.softplus(np, -finite), np.exp(-gamma * formula.softplus(np, finite))
    return np.where(np.isinf(x), 0, up * power * ((2 * gamma + 1) * down + gamma * s * (gamma * up + down)))
