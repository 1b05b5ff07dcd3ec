"""What the tests of a kernel compare the options of ``binxent.focal`` with: the definition in a wider type, and its
larger terms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from binxent import focal, formula
from binxent.options import Terms

Array = np.ndarray[Any, Any]


class Exact(NamedTuple):
    loss: Array
    gradient: Array
    larger_loss: Array  # of the terms that are added
    larger_gradient: Array


def exact(
    x: Array,
    target: Array,
    weight: Any = None,
    pos_weight: Any = None,
    neg_weight: Any = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0.0,
    focal_kind: str = "branch",
    *,
    probabilities: bool = False,
    wide: Any = np.float64,
) -> Exact:
    x, y = np.asarray(x).astype(wide), np.asarray(target).astype(wide)
    w, p, n = (np.asarray(1 if v is None else v).astype(wide) for v in (weight, pos_weight, neg_weight))
    terms = Terms(alpha=alpha, gamma_negative=gamma_negative, margin=margin, focal=focal_kind)
    if alpha is not None and focal_kind != "p_t":
        p, n = p * alpha, n * (1 - wide(alpha))
    of = focal.of(probabilities, terms)

    def at(target: Array, p: Array, n: Array, smoothing: float = label_smoothing) -> tuple[Array, Array]:
        rest = (np, x, target, w, p, smoothing, gamma, n)
        with np.errstate(all="ignore"):
            return of.loss(*rest), of.derivatives["input"](*rest)

    loss, gradient = at(y, p, n)
    if focal_kind == "p_t":
        # The loss is one product. Of the gradient it is three terms that are added, each times the same power.
        with np.errstate(all="ignore"):
            point = (focal.ProbabilityPoint if probabilities else focal.LogitPoint)(np, x)
            given = focal.OfPt(point, y, p, n, label_smoothing, gamma, terms, None)
            above, below = given._weighted(given.y * point.other, given.rest * point.p)
            by_power = gamma * point.p * point.other / given.wrong * given._cross_entropy()
            larger = np.maximum(np.abs(by_power), np.maximum(np.abs(above), np.abs(below)))
            larger = np.abs(w * given._scaled(larger)) / (formula.bounded(np, x) if probabilities else 1)
        return Exact(loss, gradient, np.abs(loss), np.where(given.nothing, 0, larger))
    of_positive, of_negative = (np.abs(c) for c in formula.coefficients(y, p, label_smoothing, n))
    one, none = at(np.ones_like(x), wide(1), wide(1), 0.0), at(np.zeros_like(x), wide(1), wide(1), 0.0)
    larger = [np.maximum(of_positive * np.abs(a), of_negative * np.abs(b)) for a, b in zip(one, none, strict=True)]
    return Exact(loss, gradient, *larger)
