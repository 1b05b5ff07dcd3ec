"""Cases that take turns: where each costs seconds, it is asked in one of several ways, and each way of many cases."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def in_turn(*axes: Sequence[Any], ways: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Every combination of the axes, with the next way at each step along any of them."""
    return [
        (*(axis[place] for axis, place in zip(axes, places, strict=True)), ways[sum(places) % len(ways)])
        for places in itertools.product(*(range(len(axis)) for axis in axes))
    ]
