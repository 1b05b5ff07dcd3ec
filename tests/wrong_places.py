"""Where an element is wrong that ``check_targets`` refuses: a table for the tests of every face and mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
Index = tuple[int, ...]

VALUES = {"target": 3.0, "pos_weight": -1.0, "neg_weight": -0.5, "mask": 0.5}
# The shapes of the input and of the operand that broadcasts to it, and the index of the wrong element in the operand.
PLACES: dict[str, tuple[Index, Index, Index]] = {
    "[C]": ((2, 3), (3,), (2,)),
    "[B, 1]": ((2, 3), (2, 1), (1, 0)),
    "[C, 1, 1]": ((2, 3, 2, 2), (3, 1, 1), (2, 0, 0)),
    "[]": ((2, 3), (), ()),
    "[1]": ((2, 3), (1,), (0,)),
    "[1, C]": ((2, 3), (1, 3), (0, 1)),
    "[B, 1, C]": ((2, 3, 4), (2, 1, 4), (1, 0, 3)),
    "all": ((2, 3), (2, 3), (1, 2)),
}
every_place = pytest.mark.parametrize("place", PLACES)
every_operand = pytest.mark.parametrize("name", VALUES)


def wrong_operand(name: str, place: str) -> tuple[Index, Array, str]:
    """The input's shape, the float32 operand of that name, and the words of the refusal."""
    full, shape, index = PLACES[place]
    if name == "target":  # which has the input's shape
        shape, index = full, tuple(size - 1 for size in full)
    operand = np.ones(shape, np.float32)
    operand[index] = VALUES[name]
    return full, operand, f"{name}: {name}{list(index) if index else ''} is {VALUES[name]:g}"
