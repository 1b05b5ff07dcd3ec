"""Defines the second derivatives of the focal family by a logit: the exact one, and the expected one of ``formula``.

With the names of ``focal``, and p = σ(x), r = 1 − p, v = p·r, q = p − m, k = 1 − q, L = −log k, C the cross-entropy,
d = (1−y) − y and u = 1 − p_t::

    asymmetric   d²/dx² = w · [ P·c(x; γ₊) + N·c(−x; γ₋) ],   c of ``formula``; with a margin m the second term is
                 N·v·q^γ₋·[ (r² + m·(r − p))/k² + γ₋·( 2·v/(q·k) + L·(γ₋·v − p·q − m·r)/q² ) ],   and 0 for p ≤ m
    p_t          d²/dx² = w · α_t · u^γ · [ (pos_weight·y + neg_weight·(1−y))·v + γ·d·(v/u)·S ],
                 S = 2·(neg_weight·(1−y)·p − pos_weight·y·r) + C·(γ·d·v + y·r² − (1−y)·p²)/u

Both follow from dp/dx = v and dv/dx = v·(r − p). Written so, no term is a difference of which the tails leave nothing:
v²/k² + v·(r − p)/k, of which the first is made, would be 0 − 0 for p next to 1 and a tiny m.

At p = m the slope of a negative may jump. There, as for p < m, its second derivative is taken as 0, as its slope is.

The expected one has the mean E(x) of both branches in the place of each of them: over the labels for which x is the
best logit, whose share of positives is B/(A + B), where −A and B are the slopes of P = 1 and of N = 1::

    asymmetric   w · (P + N)·E(x),     E = (B·c(x; γ₊) + A·c(−x; γ₋)) / (A + B) > 0
    margin       w · (P + N·[p > m])·E(x),   E without the margin
    p_t          w · α_t · (pos_weight·y + neg_weight·(1−y))·E(x)

E is positive, because B/A grows with x. With a margin there is no such mean: each x with p ≤ m is the best for labels
that are never positive, and, without γ₊, none is for labels that are nearly always positive. For p_t, E is that of
labels of 0 and 1, whose losses are those of one γ for both branches.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from binxent import focal, formula
from binxent.formula import Array, Namespace, Option, _weighted, is_off, smoothed

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.options import Terms

Curvature = Any  # a function with the parameters of formula.logits_curvature


def _of_negative(xp: Namespace, x: Array, gamma: Option, margin: Option) -> Array:
    """The second derivative of a negative's loss."""
    if is_off(margin):
        return formula._curve(xp, -x, gamma)
    infinite, finite = formula._finite(xp, x)
    at = focal._of_logit(xp, finite)
    p, r, _, _ = at
    q, k, minus_log, rising = focal._shifted(xp, at, margin)
    curve = (r * r + margin * (r - p)) / (k * k)
    if not is_off(gamma):
        bend = 2 * p * r / (q * k) + rising * (gamma * p * r - p * q - margin * r) / (q * q)
        curve = xp.exp(-gamma * minus_log) * (curve + gamma * bend)
    return xp.where(infinite, xp.zeros_like(x), focal._counted(xp, at, margin, p * r * curve))


def _asymmetric(terms: Terms) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Both brackets, of x, y, 1 − y, the weights of positives and of negatives, and γ."""
    margin, own = terms.margin, terms.gamma_negative

    def exact(xp: Namespace, x: Array, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        of_negative = _of_negative(xp, x, gamma if own is None else own, margin)
        return focal._both(xp, y, rest, up, down, formula._curve(xp, x, gamma), of_negative)

    def expected(xp: Namespace, x: Array, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        positive, negative = _weighted(xp, up, y), _weighted(xp, down, rest)
        if not is_off(margin):
            p, _ = formula.sigmoids(xp, x)
            negative = xp.where(p - margin <= 0, xp.zeros_like(negative), negative)
        return (positive + negative) * formula._expected_curve(xp, x, gamma, gamma if own is None else own)

    return exact, expected


def _of_p_t(terms: Terms) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Likewise, with the power of p_t."""
    alpha = terms.alpha
    share, other_share = (alpha, 1 - alpha) if alpha is not None else (1.0, 1.0)

    def scaled(y: Array, rest: Array, value: Array) -> Array:
        return value if alpha is None else (y * share + rest * other_share) * value

    def exact(xp: Namespace, x: Array, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        infinite, finite = formula._finite(xp, x)
        p, r, falling, rising = focal._of_logit(xp, finite)
        one, none = _weighted(xp, up, y), _weighted(xp, down, rest)
        curve = (one + none) * p * r
        if not is_off(gamma):
            u = y * r + rest * p
            nothing, d = u <= 0, rest - y  # u is 0 where a hard target's loss is
            safe = xp.where(nothing, xp.zeros_like(u) + 1, u)
            inner = (one * falling + none * rising) * (gamma * d * p * r + y * r * r - rest * p * p) / safe
            curve = curve + gamma * d * (p * r / safe) * (2 * (none * p - one * r) + inner)
            curve = xp.where(nothing, xp.zeros_like(curve), xp.exp(gamma * xp.log(safe)) * curve)
        return scaled(y, rest, xp.where(infinite, xp.zeros_like(curve), curve))

    def expected(xp: Namespace, x: Array, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        both = _weighted(xp, up, y) + _weighted(xp, down, rest)
        return scaled(y, rest, both * formula._expected_curve(xp, x, gamma, gamma))

    return exact, expected


def of_terms(terms: Terms) -> tuple[Curvature, Curvature]:
    """The exact and the expected second derivative of the loss of these terms."""

    def weighted(bracket: Callable[..., Array]) -> Curvature:
        def weighted_bracket(
            xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
            label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
        ) -> Array:  # fmt: skip
            y, rest = smoothed(target, label_smoothing), smoothed(1 - target, label_smoothing)
            return _weighted(xp, weight, bracket(xp, x, y, rest, pos_weight, neg_weight, gamma))

        return weighted_bracket

    exact, expected = _of_p_t(terms) if terms.focal == "p_t" else _asymmetric(terms)
    return weighted(exact), weighted(expected)


of = functools.lru_cache(maxsize=64)(of_terms)
