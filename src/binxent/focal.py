"""Defines the focal family beyond one gamma, of both losses: two powers, a margin, and the power of p_t.

With p = σ(x), or p = q for a probability q, and the coefficients P = α·pos_weight·y and N = (1−α)·neg_weight·(1−y)::

    asymmetric   loss = w · [ P·(1−p)^γ₊·(−log p) + N·pₘ^γ₋·(−log(1−pₘ)) ],   pₘ = max(p − m, 0)
    p_t          loss = w · α_t · u^γ · [ pos_weight·y·(−log p) + neg_weight·(1−y)·(−log(1−p)) ],
                 u = 1 − p_t = y·(1−p) + (1−y)·p,   α_t = α·y + (1−α)·(1−y)

The asymmetric loss is that of Ridnik et al. (2021); with the margin m = 0 and γ₊ = γ₋ it is the focal loss of
``formula``. For hard targets p_t is that, too. Label smoothing changes y and 1 − y before anything else.

The derivatives are written for a logit, d/dx; that of a probability, d/dq, is the same expression divided by
max(q·(1−q), 1e-12), which stands for dp/dx = p·(1−p)::

    asymmetric   d/dx = w · [ N·p·(1−p)·pₘ^γ₋·(1/(1−pₘ) + γ₋·(−log(1−pₘ))/pₘ) − P·(1−p)^γ₊·((1−p) + γ₊·p·(−log p)) ]
                 where the first term is 0 for p ≤ m
    p_t          d/dx = w · α_t · u^γ · [ (1−y)·neg_weight·p − y·pos_weight·(1−p) + γ·(1−2y)·p·(1−p)/u · C ],
                 C = the bracket of the loss

``formula`` says what 0 · ∞ is, and why a ``where`` stands where it does.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from binxent import formula
from binxent.formula import Loss, _times, _weighted, is_off, smoothed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from binxent.options import Terms

Array = Any
Namespace = Any
Option = Any


class Point:
    """What both losses have at one x: p and 1 − p, and their logarithms, negated."""

    def __init__(self, xp: Namespace, p: Array, other: Array, falling: Array, rising: Array) -> None:
        self.xp, self.p, self.other = xp, p, other
        self.falling, self.rising = falling, rising  # −log p and −log(1 − p)

    def opposite(self) -> Point:
        """The point of 1 − p, whose negative is this one's positive."""
        return Point(self.xp, self.other, self.p, self.rising, self.falling)


class LogitPoint(Point):
    def __init__(self, xp: Namespace, x: Array) -> None:
        p, other = formula.sigmoids(xp, x)
        super().__init__(xp, p, other, formula.softplus(xp, -x), formula.softplus(xp, x))


class ProbabilityPoint(Point):
    def __init__(self, xp: Namespace, q: Array) -> None:
        super().__init__(xp, q, 1 - q, formula.minus_log(xp, q), formula.minus_log1m(xp, q))


def _power(xp: Namespace, minus_log: Array, gamma: Option) -> Array:
    """t^γ, from −log t; 0 where t is 0."""
    nothing = xp.isinf(minus_log)
    power = xp.exp(-gamma * xp.where(nothing, xp.zeros_like(minus_log), minus_log))
    return power if is_off(gamma) else xp.where(nothing, xp.zeros_like(power), power)


class Branch:
    """The loss of a negative, (p − m)^γ·(−log(1 − p + m)), and its derivatives; that of a positive is at 1 − p."""

    def __init__(self, at: Point, gamma: Option, margin: float, clamp: float | None) -> None:
        xp, self.gamma = at.xp, gamma
        if not is_off(margin):
            shifted = at.p - margin
            self.counts = shifted > 0
            one = xp.zeros_like(shifted) + 0.5
            p = xp.where(self.counts, shifted, one)
            other = xp.where(self.counts, at.other + margin, one)
            # 1 − p, which is exact near 0, where its logarithm is small; and 1 − p + m, which is exact near 1.
            near, far = xp.where(p < 0.5, p, one), xp.where(p < 0.5, one, other)
            rising = xp.where(p < 0.5, -xp.log1p(-near), -xp.log(far))
            self.minus_log = -xp.log(p)
        else:
            self.counts, p, other, rising, self.minus_log = None, at.p, at.other, at.rising, at.falling
        self.xp, self.at, self.p, self.other, self.rising = xp, at, p, other, rising
        if is_off(gamma):
            self.power = None
        elif clamp is not None and is_off(margin):
            self.power = formula.focal_power(xp, self.minus_log, gamma)
        else:
            self.power = _power(xp, self.minus_log, gamma)

    def _counted(self, value: Array) -> Array:
        return value if self.counts is None else self.xp.where(self.counts, value, self.xp.zeros_like(value))

    def loss(self) -> Array:
        if self.power is None:
            return self._counted(self.rising)
        return self._counted(_times(self.xp, self.power, self.rising))

    def slope(self) -> Array:
        """The derivative by the logit of p."""
        at = self.at
        if self.counts is None:
            inner = at.p
            if self.power is not None:
                inner = self.power * (at.p + self.gamma * _times(self.xp, at.other, self.rising))
            return inner
        inner = 1 / self.other
        if self.power is not None:
            inner = self.power * (inner + self.gamma * self.rising / self.p)
        return self._counted(at.p * at.other * inner)

    def slope_to_gamma(self) -> Array:
        slope = _times(self.xp, self.rising, self.minus_log)
        if self.power is not None:
            slope = _times(self.xp, self.power, slope)
        return -self._counted(slope)


class Asymmetric:
    """The bracket of the asymmetric loss and its derivatives, with everything but the weight."""

    def __init__(
        self, at: Point, target: Array, positive: Any, negative: Any, label_smoothing: Option, gamma: Option,
        terms: Terms, clamp: float | None,
    ) -> None:  # fmt: skip
        self.xp, self.at = at.xp, at
        self.of_positive, self.of_negative = positive, negative  # α·pos_weight and (1 − α)·neg_weight, or None
        self.y, self.rest = smoothed(target, label_smoothing), smoothed(1 - target, label_smoothing)
        self.has_own = terms.gamma_negative is not None  # the negatives, a power; else they share gamma
        below = terms.gamma_negative if self.has_own else gamma
        self.positive = Branch(at.opposite(), gamma, 0, clamp)
        self.negative = Branch(at, below, terms.margin, clamp)

    def _sum(self, positive: Array, negative: Array) -> Array:
        xp, one, none = self.xp, self.y, self.rest
        one = one if self.of_positive is None else self.of_positive * one
        none = none if self.of_negative is None else self.of_negative * none
        return _times(xp, one, positive) + _times(xp, none, negative)

    def loss(self) -> Array:
        return self._sum(self.positive.loss(), self.negative.loss())

    def slope(self) -> Array:
        return self._sum(-self.positive.slope(), self.negative.slope())

    def to_target(self) -> Array:
        positive, negative = self.positive.loss(), self.negative.loss()
        positive = positive if self.of_positive is None else _times(self.xp, self.of_positive, positive)
        return positive - (negative if self.of_negative is None else _times(self.xp, self.of_negative, negative))

    def to_pos_weight(self) -> Array:
        return _times(self.xp, self.y, self.positive.loss())

    def to_neg_weight(self) -> Array:
        return _times(self.xp, self.rest, self.negative.loss())

    def to_gamma(self) -> Array:
        positive = self.positive.slope_to_gamma()
        return self._sum(positive, self.xp.zeros_like(positive) if self.has_own else self.negative.slope_to_gamma())


class OfPt:
    """The same of the loss with the power of p_t. Its alpha is none of the coefficients: it multiplies the whole."""

    def __init__(
        self, at: Point, target: Array, positive: Any, negative: Any, label_smoothing: Option, gamma: Option,
        terms: Terms, clamp: float | None,
    ) -> None:  # fmt: skip
        xp, self.at, self.gamma = at.xp, at, gamma
        self.xp, self.pos_weight, self.neg_weight = xp, positive, negative
        self.y, self.rest = smoothed(target, label_smoothing), smoothed(1 - target, label_smoothing)
        self.up, self.down = (1.0, 1.0) if terms.alpha is None else (terms.alpha, 1 - terms.alpha)
        self.alpha = None if terms.alpha is None else self.y * self.up + self.rest * self.down
        wrong = self.y * at.other + self.rest * at.p
        self.nothing = wrong <= 0  # a hard target in the tail where its loss is 0
        self.wrong = xp.where(self.nothing, xp.zeros_like(wrong) + 1, wrong)
        power = xp.exp(gamma * xp.log(self.wrong))
        self.power = power if is_off(gamma) else xp.where(self.nothing, xp.zeros_like(power), power)

    def _weighted(self, positive: Array, negative: Array) -> tuple[Array, Array]:
        return (
            positive if self.pos_weight is None else _times(self.xp, self.pos_weight, positive),
            negative if self.neg_weight is None else _times(self.xp, self.neg_weight, negative),
        )

    def _cross_entropy(self) -> Array:
        positive, negative = self._weighted(_times(self.xp, self.y, self.at.falling),
                                            _times(self.xp, self.rest, self.at.rising))  # fmt: skip
        return positive + negative

    def _scaled(self, value: Array) -> Array:
        value = _times(self.xp, self.power, value)
        return value if self.alpha is None else _times(self.xp, self.alpha, value)

    def _by_wrong(self, value: Array) -> Array:
        """γ·value/u, where u is not 0."""
        return self.xp.where(self.nothing, self.xp.zeros_like(value), self.gamma * value / self.wrong)

    def loss(self) -> Array:
        return self._scaled(self._cross_entropy())

    def slope(self) -> Array:
        at = self.at
        positive, negative = self._weighted(self.y * at.other, self.rest * at.p)
        # p·(1 − p)/u comes before the cross-entropy: for a hard target it is p or 1 − p.
        of_power = self._by_wrong(at.p * at.other) * (self.rest - self.y)
        return self._scaled(negative - positive + _times(self.xp, of_power, self._cross_entropy()))

    def to_target(self) -> Array:
        xp, at = self.xp, self.at
        positive, negative = self._weighted(at.falling, at.rising)
        of_power = self._by_wrong(at.other - at.p)
        inner = positive - negative + _times(xp, of_power, self._cross_entropy())
        found = self._scaled(inner)
        if self.alpha is not None:
            found = found + (self.up - self.down) * _times(xp, self.power, self._cross_entropy())
        return found

    def to_pos_weight(self) -> Array:
        return self._scaled(_times(self.xp, self.y, self.at.falling))

    def to_neg_weight(self) -> Array:
        return self._scaled(_times(self.xp, self.rest, self.at.rising))

    def to_gamma(self) -> Array:
        return self._scaled(_times(self.xp, self.xp.log(self.wrong), self._cross_entropy()))


def _derivatives(at: Callable[..., Point], terms: Terms, clamp: float | None) -> tuple[Any, Mapping[str, Any]]:
    kind: Any = OfPt if terms.focal == "p_t" else Asymmetric

    def bracket(
        xp: Namespace, x: Array, target: Array, pos_weight: Any, label_smoothing: Option, gamma: Option, neg_weight: Any
    ) -> Any:
        return kind(at(xp, x), target, pos_weight, neg_weight, label_smoothing, gamma, terms, clamp)

    def loss(
        xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
        label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
    ) -> Array:  # fmt: skip
        given = bracket(xp, x, target, pos_weight, label_smoothing, gamma, neg_weight)
        return _weighted(xp, weight, given.loss())

    def slope(
        xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
        label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
    ) -> Array:  # fmt: skip
        found = bracket(xp, x, target, pos_weight, label_smoothing, gamma, neg_weight).slope()
        return _weighted(xp, weight, found if clamp is None else found / formula.bounded(xp, x))

    def to(name: str) -> Callable[..., Array]:
        def derivative(
            xp: Namespace, x: Array, target: Array, weight: Array | None = None, pos_weight: Any = None,
            label_smoothing: Option = 0.0, gamma: Option = 0.0, neg_weight: Any = None,
        ) -> Array:  # fmt: skip
            given = bracket(xp, x, target, pos_weight, label_smoothing, gamma, neg_weight)
            if name == "label_smoothing":
                found = _times(xp, 0.5 - target, given.to_target())
            elif name == "target" and not is_off(label_smoothing):
                found = given.to_target() * (1 - label_smoothing)
            else:
                found = getattr(given, f"to_{name}")()
            return _weighted(xp, weight, found)

        return derivative

    names = ("target", "pos_weight", "neg_weight", "label_smoothing", "gamma")
    return loss, {"input": slope, **{name: to(name) for name in names}}


@functools.lru_cache(maxsize=64)
def of(probabilities: bool, terms: Terms) -> Loss:
    """The loss of these terms, of logits or of probabilities; its functions take what those of ``formula`` take."""
    loss, derivatives = _derivatives(
        ProbabilityPoint if probabilities else LogitPoint, terms, formula.LOG_CLAMP if probabilities else None
    )

    def both(
        xp: Namespace, *arguments: Any, loss: bool = True, gradient: bool = True, finite: bool = False
    ) -> tuple[Array | None, Array | None]:
        return each(xp, *arguments) if loss else None, derivatives["input"](xp, *arguments) if gradient else None

    each = loss
    return Loss("focal", probabilities, loss, derivatives, both)
