"""Finds the logit of the least sum of focal losses, where no formula has it: its derivative changes sign there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import focal
from binxent.halving import sign_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.options import Terms

Array = Any
FARTHEST = 100.0  # beyond this logit no float32 gradient of a negative is left
GRID = np.linspace(-20, 20, 161)


def _between(low: Array, high: Array, gradient: Callable[[Array], Array]) -> Array:
    """Where the gradient changes from negative to positive."""
    low, high = sign_change(low, high, gradient)
    return (low + high) / 2


def of_branches(share: Array, terms: Terms) -> Array:
    """The best logit for each label, where that share of its weights is positive.

    The gradient is share·f'(x) + (1 − share)·g'(x), f and g the losses of a positive and of a negative. It changes sign
    once, because −g'/f' grows from 0 on: that is to say that the expected second derivative is positive. A margin keeps
    g' at 0 up to itself, and −g'/f' grows from there on; without a power of positives it has a bound, and beyond that
    share the result is FARTHEST.
    """
    of = focal.of(False, terms._replace(ignore_index=None, label_smoothing=0, gamma=0, alpha=None))

    def gradient(x: Array) -> Array:
        with np.errstate(under="ignore"):
            return of.derivatives["input"](np, x, share, gamma=terms.gamma)

    return _between(np.full_like(share, -FARTHEST), np.full_like(share, FARTHEST), gradient)


def of_p_t(labels: Array, up: Array, down: Array, terms: Terms) -> Array:
    """The best logit for each label, with the power of p_t; ``up`` and ``down`` are all weights of each element.

    The loss of a soft target is no mean of those of a positive and a negative, and a sum of them may have several
    minima. So the least of a grid of losses is taken first, and the sign of the gradient looked for beside it.
    """
    y, p, n = (np.broadcast_to(each, labels.shape).reshape(len(labels), -1) for each in (labels, up, down))
    scores = [_of_one_label(y[:, label], p[:, label], n[:, label], terms) for label in range(y.shape[1])]
    return np.array(scores).reshape(labels.shape[1:])


def _of_one_label(labels: Array, up: Array, down: Array, terms: Terms) -> float:
    of = focal.of(False, terms._replace(ignore_index=None, label_smoothing=0, gamma=0))
    y, place = np.unique(labels, return_inverse=True)  # equal labels have one loss
    up, down = (np.bincount(place.reshape(-1), each, len(y)) for each in (up, down))

    def total(function: Callable[..., Array], x: float) -> Array:
        return function(np, np.full_like(y, x), y, None, up, terms.label_smoothing, terms.gamma, down).sum()

    least = int(np.argmin([total(of.loss, x) for x in GRID]))
    low = GRID[least - 1] if least > 0 else -FARTHEST
    high = GRID[least + 1] if least + 1 < len(GRID) else FARTHEST
    return float(_between(low, high, lambda x: total(of.derivatives["input"], float(x))))
