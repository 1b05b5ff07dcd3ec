"""The least loss that a prediction can have which is the same for every element: what a label's loss is held to.

Without options it is that of the base rate. In general it is least where the derivatives of both classes cancel out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import formula
from binxent import numpy as face
from binxent.halving import sign_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.arrays import Array
    from binxent.report.loss_options import LossOptions

_FARTHEST = 700.0  # beyond this logit one of the two probabilities is no normal float64
_GRID = np.linspace(-40, 40, 401)  # logits between which the loss of p_t has one valley at most, with smoothed targets


def is_linear(options: LossOptions) -> bool:
    """Whether the loss is linear in the target: the loss of many targets then follows from their sum.

    With the power of p_t, or its alpha, it is not: the target is in both of its factors.
    """
    terms = options.terms
    return terms.focal == "branch" or (terms.gamma == 0 and terms.alpha is None)


def least_loss(positive: Array, negative: Array, options: LossOptions) -> Array:
    """The sum of each label's losses at the constant prediction for which it is least.

    ``positive`` and ``negative`` are the sums of the weights of the targets 1 and 0, for each label.
    """
    targets = np.array([[1.0], [0.0]])
    coefficient = np.stack([positive, negative])
    shape = coefficient.shape
    wide = {name: None if w is None else w.astype(np.float64) for name, w in _weights(options).items()}
    arguments: dict[str, Any] = {**options.arguments(), **wide}
    both = np.broadcast_to(targets, shape).copy()

    def loss_at(constant: Array | float) -> Array:
        x = np.broadcast_to(constant, shape).copy()
        losses: Any = face.binary_cross_entropy_with_logits(x, both, coefficient, reduction="none", **arguments)
        return np.asarray(losses.sum(axis=0))

    def slope_at(constant: Array) -> Array:
        x = np.broadcast_to(constant, shape).copy()
        _, slopes = face.value_and_grad(x, both, coefficient, "none", **arguments)
        return np.asarray(slopes.sum(axis=0))

    if _has_odds(options):
        return loss_at(_log_odds(targets, coefficient, options, wide))
    # Each class has a loss that is convex in the probability, so their sum falls up to one place, and rises behind it.
    low, high = np.full(shape[1], -_FARTHEST), np.full(shape[1], _FARTHEST)
    if options.terms.focal == "p_t" and options.terms.label_smoothing > 0:  # it may have several valleys
        low, high = _deepest(loss_at, low, high)
    low, high = sign_change(low, high, slope_at)
    # Both sides of the place, since a margin makes a corner there; and both ends, the best with one class only.
    return np.asarray(np.minimum.reduce([loss_at(constant) for constant in (low, high, -np.inf, np.inf)]))


def _deepest(loss_at: Callable[[float], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """The ends of the deepest valley: the neighbours of the grid's logit that has the least loss, for each label."""
    constants = _GRID.tolist()
    least, place = loss_at(constants[0]), np.zeros(low.shape, int)
    for i, constant in enumerate(constants[1:], 1):
        loss = loss_at(constant)
        place[loss < least] = i
        least = np.minimum(least, loss)
    ends = np.concatenate([low[:1], constants, high[:1]])
    return ends[place], ends[place + 2]


def _weights(options: LossOptions) -> dict[str, Array | None]:
    return {"pos_weight": options.pos_weight, "neg_weight": options.neg_weight}


def _has_odds(options: LossOptions) -> bool:
    """Whether the constant is the logarithm of odds: without a power, a margin, or alpha on the whole of p_t."""
    terms = options.terms
    has_power = terms.gamma != 0 or terms.gamma_negative is not None
    return not has_power and terms.margin == 0 and is_linear(options)


def _log_odds(targets: Array, coefficient: Array, options: LossOptions, wide: dict[str, Array | None]) -> Array:
    terms = options.terms
    of_classes = formula.coefficients(targets, wide["pos_weight"], terms.label_smoothing, wide["neg_weight"])
    toward_1, toward_0 = ((coefficient * of_class).sum(axis=0) for of_class in of_classes)
    if terms.alpha is not None:
        toward_1, toward_0 = toward_1 * terms.alpha, toward_0 * (1 - terms.alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = formula.log_odds(np, toward_1, toward_0)
        return np.asarray(np.nan_to_num(odds, nan=0, posinf=np.inf, neginf=-np.inf))
