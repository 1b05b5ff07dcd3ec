"""The definition: both losses and their derivatives, on any array library.

``xp`` is any namespace with ``exp``, ``log``, ``log1p``, ``where``, ``isinf`` and ``zeros_like``: NumPy, torch,
jax.numpy. This is what every test compares with (in float64), and what runs where the kernel does not.

For a logit x, target y, weight w and positive weight p::

    loss   = w · [ p·y·softplus(−x) + (1−y)·softplus(x) ]
    d/dx   = w · [ (1−y)·σ(x) − p·y·σ(−x) ]
    d/dy   = w · [ p·softplus(−x) − softplus(x) ]
    d/dp   = w · y·softplus(−x)
    d/dw   = loss / w
    d²/dx² = w · [ (1−y) + p·y ] · σ(x)·σ(−x)

For a probability q, both logarithms clamped at −100 as the frameworks document::

    loss   = w · [ p·y·(−log q) + (1−y)·(−log(1−q)) ]
    d/dq   = w · [ (1−y)·q − p·y·(1−q) ] / max(q·(1−q), 1e-12)
    d/dy   = w · [ p·(−log q) − (−log(1−q)) ]
    d/dp   = w · y·(−log q)
    d/dw   = loss / w

Both branches are computed, neither from the other: σ(x) − 1, x − x·y and log σ(x) lose every digit in the tails.

A coefficient of exactly 0 times ±inf is 0; 0 times NaN stays NaN.

Every choice between the sides of 0 is a ``where`` on x < 0, so that near 0 the function is one analytic expression:
an automatic differentiation of this file is then right at 0 too, to any order. Through ``abs`` it is not.
"""

from __future__ import annotations

from typing import Any

Array = Any
Namespace = Any

LOG_CLAMP = 100.0
TINY_PRODUCT = 1e-12  # the least denominator of d/dq: it bounds the gradient by 1e12


def _e(xp: Namespace, x: Array) -> Array:
    """exp(−|x|) ≤ 1: it never overflows."""
    return xp.exp(xp.where(x < 0, x, -x))


def softplus(xp: Namespace, x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|))."""
    return xp.where(x < 0, xp.zeros_like(x), x) + xp.log1p(_e(xp, x))


def sigmoid(xp: Namespace, x: Array) -> Array:
    """1/(1 + exp(−x)) = 1/(1+e) or e/(1+e), e = exp(−|x|)."""
    e = _e(xp, x)
    return xp.where(x < 0, e, xp.zeros_like(x) + 1) / (1 + e)


def minus_log(xp: Namespace, q: Array) -> Array:
    """−log q, at most 100."""
    value = -xp.log(q)
    return xp.where(value > LOG_CLAMP, xp.zeros_like(value) + LOG_CLAMP, value)


def minus_log1m(xp: Namespace, q: Array) -> Array:
    """−log(1 − q), at most 100; exact for small q, where 1 − q is not."""
    value = -xp.log1p(-q)
    return xp.where(value > LOG_CLAMP, xp.zeros_like(value) + LOG_CLAMP, value)


def _times(xp: Namespace, coefficient: Array, value: Array) -> Array:
    """coefficient · value, where 0 · ±inf is 0."""
    return coefficient * xp.where((coefficient == 0) & xp.isinf(value), xp.zeros_like(value), value)


def _weighted(xp: Namespace, weight: Array | None, bracket: Array) -> Array:
    return bracket if weight is None else _times(xp, weight, bracket)


def _positive(target: Array, pos_weight: Array | None) -> Array:
    """p·y, the coefficient of the branch that wants a larger logit; that of the other is 1 − y."""
    return target if pos_weight is None else pos_weight * target


def logits_loss(
    xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    bracket = _times(xp, _positive(target, pos_weight), softplus(xp, -x)) + _times(xp, 1 - target, softplus(xp, x))
    return _weighted(xp, weight, bracket)


def logits_gradient(
    xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    bracket = (1 - target) * sigmoid(xp, x) - _positive(target, pos_weight) * sigmoid(xp, -x)
    return _weighted(xp, weight, bracket)


def logits_gradient_to_target(
    xp: Namespace, x: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    bracket = -x
    if pos_weight is not None:
        # What both softplus have in common, log1p(e), is added once: for p = 1 the rest is −x, and for p = 0 nothing.
        rest = xp.where(x < 0, _times(xp, pos_weight, bracket), bracket)
        bracket = rest + (pos_weight - 1) * xp.log1p(_e(xp, x))
    return _weighted(xp, weight, bracket)


def logits_gradient_to_pos_weight(xp: Namespace, x: Array, target: Array, weight: Array | None = None) -> Array:
    return _weighted(xp, weight, _times(xp, target, softplus(xp, -x)))


def logits_curvature(
    xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    bracket = (1 - target + _positive(target, pos_weight)) * sigmoid(xp, x) * sigmoid(xp, -x)
    return _weighted(xp, weight, bracket)


def probabilities_loss(
    xp: Namespace, q: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    bracket = _positive(target, pos_weight) * minus_log(xp, q) + (1 - target) * minus_log1m(xp, q)
    return _weighted(xp, weight, bracket)


def probabilities_gradient(
    xp: Namespace, q: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    product = q * (1 - q)
    bounded = xp.where(product < TINY_PRODUCT, xp.zeros_like(product) + TINY_PRODUCT, product)
    bracket = ((1 - target) * q - _positive(target, pos_weight) * (1 - q)) / bounded
    return _weighted(xp, weight, bracket)


def probabilities_gradient_to_target(
    xp: Namespace, q: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    positive = minus_log(xp, q)
    bracket = (positive if pos_weight is None else pos_weight * positive) - minus_log1m(xp, q)
    return _weighted(xp, weight, bracket)


def probabilities_gradient_to_pos_weight(xp: Namespace, q: Array, target: Array, weight: Array | None = None) -> Array:
    return _weighted(xp, weight, target * minus_log(xp, q))


def log_odds(xp: Namespace, positive: Array, negative: Array) -> Array:
    """log(positive / negative): the logit of the probability positive / (positive + negative)."""
    return xp.log(positive) - xp.log(negative)


def unweighted_logits(xp: Namespace, x: Array, pos_weight: Array) -> Array:
    """x − log p. Where a share r of the labels is positive, the loss with pos_weight p is least at the odds p·r/(1−r),
    that is, at p times the odds of the data."""
    return x - xp.log(pos_weight)


def unweighted_probabilities(q: Array, pos_weight: Array) -> Array:
    """q / (q + p·(1−q)), the sigmoid of log(q/(1−q)) − log p; no difference of logarithms is taken, so both tails keep
    their digits."""
    return q / (q + pos_weight * (1 - q))


def effective_number(xp: Namespace, n: Array, beta: float) -> Array:
    """(1 − βⁿ)/(1 − β), 0 < β < 1: n examples are worth this many where the k-th is worth βᵏ⁻¹."""
    return xp.expm1(n * xp.log(beta)) / (beta - 1)
