"""Defines the focal family beyond one gamma, of both losses: two powers, a margin, and the power of p_t.

With p = σ(x), or p = q for a probability q, and the coefficients P = α·pos_weight·y and N = (1−α)·neg_weight·(1−y)::

    asymmetric   loss = w · [ P·(1−p)^γ₊·(−log p) + N·pₘ^γ₋·(−log(1−pₘ)) ],   pₘ = max(p − m, 0)
    p_t          loss = w · α_t · u^γ · [ pos_weight·y·(−log p) + neg_weight·(1−y)·(−log(1−p)) ],
                 u = 1 − p_t = y·(1−p) + (1−y)·p,   α_t = α·y + (1−α)·(1−y)

The asymmetric loss is that of Ridnik et al. (2021); with the margin m = 0 and γ₊ = γ₋ it is the focal loss of
``formula``. For hard targets p_t is that, too. Label smoothing changes y and 1 − y before anything else.

The derivatives are written for a logit, d/dx. That of a probability, d/dq, is the same expression divided by
max(q·(1−q), 1e-12), which stands for dp/dx = p·(1−p), in the term with the margin too::

    asymmetric   d/dx = w · [ N·p·(1−p)·pₘ^γ₋·(1/(1−pₘ) + γ₋·(−log(1−pₘ))/pₘ) − P·(1−p)^γ₊·((1−p) + γ₊·p·(−log p)) ]
                 where the first term is 0 for p ≤ m
    p_t          d/dx = w · α_t · u^γ · [ (1−y)·neg_weight·p − y·pos_weight·(1−p) + γ·(1−2y)·p·(1−p)/u · C ],
                 C = the bracket of the loss

``formula`` says what 0 · ∞ is, and why a ``where`` stands where it does. All of it is plain functions of arrays and
tuples, because MindSpore's compiler reads them, which cannot make an object.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from binxent import formula
from binxent.formula import Loss, _times, _weighted, is_off, smoothed

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.options import Terms

Array = Any
Namespace = Any
Option = Any
Point = tuple[Array, Array, Array, Array]  # p, 1 − p, −log p and −log(1 − p)


def _of_logit(xp: Namespace, x: Array) -> Point:
    p, other = formula.sigmoids(xp, x)
    return p, other, formula.softplus(xp, -x), formula.softplus(xp, x)


def _of_probability(xp: Namespace, q: Array) -> Point:
    return q, 1 - q, formula.minus_log(xp, q), formula.minus_log1m(xp, q)


def _opposite(at: Point) -> Point:
    """The point of 1 − p, whose negative is this one's positive."""
    p, other, falling, rising = at
    return other, p, rising, falling


# One branch: the loss of a negative, (p − m)^γ·(−log(1 − p + m)), and its derivatives. That of a positive is at 1 − p.


def _shifted(xp: Namespace, at: Point, margin: Option) -> Point:
    """The point of p − m; that of ½ where p − m is not positive, which ``_counted`` leaves out."""
    if is_off(margin):
        return at
    shifted = at[0] - margin
    nothing, half = shifted <= 0, xp.zeros_like(shifted) + 0.5  # asked so, because a NaN must stay one
    p, other = xp.where(nothing, half, shifted), xp.where(nothing, half, at[1] + margin)
    # 1 − p, which is exact near 0, where its logarithm is small; and 1 − p + m, which is exact near 1.
    near, far = xp.where(p < 0.5, p, half), xp.where(p < 0.5, half, other)
    return p, other, -xp.log(p), xp.where(p < 0.5, -xp.log1p(-near), -xp.log(far))


def _counted(xp: Namespace, at: Point, margin: Option, value: Array) -> Array:
    """The value, and 0 where p − m is not positive."""
    return value if is_off(margin) else xp.where(at[0] - margin <= 0, xp.zeros_like(value), value)


def _power(xp: Namespace, minus_log: Array, gamma: Option, *, clamped: bool) -> Array:
    """t^γ, from −log t; 0 where t is 0, or −log t is clamped."""
    if clamped:
        return formula.focal_power(xp, minus_log, gamma)
    nothing = xp.isinf(minus_log)
    power = xp.exp(-gamma * xp.where(nothing, xp.zeros_like(minus_log), minus_log))
    return xp.where(nothing, xp.zeros_like(power), power)


def _branch(xp: Namespace, at: Point, gamma: Option, margin: Option, clamps: bool) -> Array:
    _, _, minus_log, rising = _shifted(xp, at, margin)
    if not is_off(gamma):
        rising = _times(xp, _power(xp, minus_log, gamma, clamped=clamps and is_off(margin)), rising)
    return _counted(xp, at, margin, rising)


def _branch_slope(xp: Namespace, at: Point, gamma: Option, margin: Option, clamps: bool) -> Array:
    """The derivative by the logit of p."""
    p, other, minus_log, rising = _shifted(xp, at, margin)
    if is_off(margin):
        if is_off(gamma):
            return p
        return _power(xp, minus_log, gamma, clamped=clamps) * (p + gamma * _times(xp, other, rising))
    inner = 1 / other
    if not is_off(gamma):
        inner = _power(xp, minus_log, gamma, clamped=False) * (inner + gamma * rising / p)
    # dp/dx. That of a probability is what its gradient is divided by in the end, so that at q = 1 it is not 0.
    slope = formula.bounded(xp, at[0]) if clamps else at[0] * at[1]
    return _counted(xp, at, margin, slope * inner)


def _branch_to_gamma(xp: Namespace, at: Point, gamma: Option, margin: Option, clamps: bool) -> Array:
    _, _, minus_log, rising = _shifted(xp, at, margin)
    slope = _times(xp, rising, minus_log)
    if not is_off(gamma):
        slope = _times(xp, _power(xp, minus_log, gamma, clamped=clamps and is_off(margin)), slope)
    return -_counted(xp, at, margin, slope)


# The brackets of the two losses and their derivatives: everything but the weight. Each takes the point, y, 1 − y, the
# weights of positives and of negatives (None, or with α and 1 − α in them for the asymmetric loss), γ, and the terms.


def _both(xp: Namespace, y: Array, rest: Array, up: Any, down: Any, positive: Array, negative: Array) -> Array:
    one, none = y if up is None else up * y, rest if down is None else down * rest
    return _times(xp, one, positive) + _times(xp, none, negative)


def _difference(xp: Namespace, up: Any, down: Any, positive: Array, negative: Array) -> Array:
    return _weighted(xp, up, positive) - _weighted(xp, down, negative)


def _asymmetric(terms: Terms, clamps: bool) -> tuple[Callable[..., Array], ...]:
    """The bracket, its derivative by the logit of p, and those to y, pos_weight, neg_weight and γ."""
    margin, own = terms.margin, terms.gamma_negative
    has_own = own is not None  # else both branches share gamma

    def branches(xp: Namespace, at: Point, gamma: Option) -> tuple[Array, Array]:
        below = own if has_own else gamma
        return _branch(xp, _opposite(at), gamma, 0, clamps), _branch(xp, at, below, margin, clamps)

    def loss(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        positive, negative = branches(xp, at, gamma)
        return _both(xp, y, rest, up, down, positive, negative)

    def slope(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        below = own if has_own else gamma
        positive = _branch_slope(xp, _opposite(at), gamma, 0, clamps)
        return _both(xp, y, rest, up, down, -positive, _branch_slope(xp, at, below, margin, clamps))

    def to_target(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        positive, negative = branches(xp, at, gamma)
        return _difference(xp, up, down, positive, negative)

    def to_pos_weight(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        return _times(xp, y, branches(xp, at, gamma)[0])

    def to_neg_weight(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        return _times(xp, rest, branches(xp, at, gamma)[1])

    def to_gamma(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        positive = _branch_to_gamma(xp, _opposite(at), gamma, 0, clamps)
        negative = xp.zeros_like(positive) if has_own else _branch_to_gamma(xp, at, gamma, margin, clamps)
        return _both(xp, y, rest, up, down, positive, negative)

    return loss, slope, to_target, to_pos_weight, to_neg_weight, to_gamma


def _of_p_t(terms: Terms) -> tuple[Callable[..., Array], ...]:
    """Likewise, with the power of p_t. Its α is in none of the weights: it multiplies the whole."""
    alpha = terms.alpha
    has_alpha = alpha is not None
    share, other_share = (alpha, 1 - alpha) if alpha is not None else (1.0, 1.0)

    def wrong(xp: Namespace, at: Point, y: Array, rest: Array) -> tuple[Array, Array]:
        """Where u is 0, which is a hard target in the tail where its loss is 0; and u, or 1 there."""
        u = y * at[1] + rest * at[0]
        nothing = u <= 0
        return nothing, xp.where(nothing, xp.zeros_like(u) + 1, u)

    def powered(xp: Namespace, at: Point, y: Array, rest: Array, gamma: Option, value: Array) -> Array:
        if is_off(gamma):
            return value
        nothing, u = wrong(xp, at, y, rest)
        power = xp.exp(gamma * xp.log(u))
        return _times(xp, xp.where(nothing, xp.zeros_like(power), power), value)

    def scaled(xp: Namespace, at: Point, y: Array, rest: Array, gamma: Option, value: Array) -> Array:
        value = powered(xp, at, y, rest, gamma, value)
        return _times(xp, y * share + rest * other_share, value) if has_alpha else value

    def by_wrong(xp: Namespace, at: Point, y: Array, rest: Array, gamma: Option, value: Array) -> Array:
        """γ·value/u, where u is not 0."""
        nothing, u = wrong(xp, at, y, rest)
        return xp.where(nothing, xp.zeros_like(value), gamma * value / u)

    def cross_entropy(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any) -> Array:
        return _weighted(xp, up, _times(xp, y, at[2])) + _weighted(xp, down, _times(xp, rest, at[3]))

    def loss(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        return scaled(xp, at, y, rest, gamma, cross_entropy(xp, at, y, rest, up, down))

    def slope(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        p, other, _, _ = at
        falling = _difference(xp, up, down, y * other, rest * p)
        # p·(1 − p)/u comes before the cross-entropy: for a hard target it is p or 1 − p.
        of_power = by_wrong(xp, at, y, rest, gamma, p * other) * (rest - y)
        rising = _times(xp, of_power, cross_entropy(xp, at, y, rest, up, down))
        return scaled(xp, at, y, rest, gamma, rising - falling)

    def to_target(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        p, other, falling, rising = at
        whole = cross_entropy(xp, at, y, rest, up, down)
        of_power = _times(xp, by_wrong(xp, at, y, rest, gamma, other - p), whole)
        found = scaled(xp, at, y, rest, gamma, _difference(xp, up, down, falling, rising) + of_power)
        if has_alpha:
            found = found + (share - other_share) * powered(xp, at, y, rest, gamma, whole)
        return found

    def to_pos_weight(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        return scaled(xp, at, y, rest, gamma, _times(xp, y, at[2]))

    def to_neg_weight(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        return scaled(xp, at, y, rest, gamma, _times(xp, rest, at[3]))

    def to_gamma(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        _, u = wrong(xp, at, y, rest)
        return scaled(xp, at, y, rest, gamma, _times(xp, xp.log(u), cross_entropy(xp, at, y, rest, up, down)))

    return loss, slope, to_target, to_pos_weight, to_neg_weight, to_gamma


def of_terms(probabilities: bool, terms: Terms, point: Callable[..., Point] | None = None) -> Loss:
    """The loss of these terms, of logits or of probabilities; its functions take what those of ``formula`` take.

    ``point`` gives the point of an input, where an array library has logarithms of its own.
    """
    point = point or (_of_probability if probabilities else _of_logit)
    brackets = _of_p_t(terms) if terms.focal == "p_t" else _asymmetric(terms, probabilities)
    of_loss, of_slope, of_target, of_pos_weight, of_neg_weight, of_gamma = brackets

    def weighted(bracket: Callable[..., Array]) -> Callable[..., Array]:
        def weighted_bracket(
            xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
            label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
        ) -> Array:  # fmt: skip
            y, rest = smoothed(target, label_smoothing), smoothed(1 - target, label_smoothing)
            return _weighted(xp, weight, bracket(xp, point(xp, x), y, rest, pos_weight, neg_weight, gamma))

        return weighted_bracket

    def of_input(xp: Namespace, at: Point, y: Array, rest: Array, up: Any, down: Any, gamma: Option) -> Array:
        slope = of_slope(xp, at, y, rest, up, down, gamma)
        return slope / formula.bounded(xp, at[0]) if probabilities else slope

    each, to_input, to_smoothed = weighted(of_loss), weighted(of_input), weighted(of_target)

    def to_target(
        xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
        label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
    ) -> Array:  # fmt: skip
        found = to_smoothed(xp, x, target, weight, pos_weight, label_smoothing, gamma, neg_weight)
        return found if is_off(label_smoothing) else found * (1 - label_smoothing)

    def to_smoothing(
        xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
        label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
    ) -> Array:  # fmt: skip
        found = to_smoothed(xp, x, target, weight, pos_weight, label_smoothing, gamma, neg_weight)
        return _times(xp, 0.5 - target, found)

    def both(
        xp: Namespace, *arguments: Any, loss: bool = True, gradient: bool = True, finite: bool = False
    ) -> tuple[Array | None, Array | None]:
        return each(xp, *arguments) if loss else None, to_input(xp, *arguments) if gradient else None

    derivatives = {
        "input": to_input,
        "target": to_target,
        "pos_weight": weighted(of_pos_weight),
        "neg_weight": weighted(of_neg_weight),
        "label_smoothing": to_smoothing,
        "gamma": weighted(of_gamma),
    }
    return Loss("focal", probabilities, each, derivatives, both)


of = functools.lru_cache(maxsize=64)(of_terms)
