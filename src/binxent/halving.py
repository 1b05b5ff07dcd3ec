"""Finds where a function changes from negative to positive, for many intervals at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.arrays import Array

HALVINGS = 60  # as many as change a float64


def sign_change(low: Array, high: Array, function: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The two ends of each interval when it has been halved so often that they are neighbours."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_below = function(middle) < 0
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return low, high
