"""What a caller may ask for, and the checks and messages that every face shares.

It knows shapes and names, and no framework. A face that must refuse with its framework's own words does so before it
comes here.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(reduction: object) -> str:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: {reduction!r} is not a valid value for reduction; expected one of {REDUCTIONS}")
    return reduction


def legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """torch's deprecated pair, where either overrides ``reduction``."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is not None and not reduce:
        meant = "none"
    else:
        meant = "mean" if size_average is None or size_average else "sum"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{meant}' instead.",
        UserWarning,
        stacklevel=3,
    )
    return meant


def divisor(reduction: str, shape: Sequence[int]) -> float:
    """What the sum of the losses is divided by. An empty mean is 0/0 = NaN, as the frameworks have it."""
    return float(math.prod(shape)) if reduction == "mean" else 1.0


def check_broadcast(name: str, shape: Sequence[int], to: Sequence[int]) -> None:
    """A weight may be broadcast to the input, and never the input to a weight."""
    shape, to = tuple(shape), tuple(to)
    lead = len(to) - len(shape)
    if lead >= 0 and all(s in (1, t) for s, t in zip(shape, to[lead:], strict=True)):
        return
    hint = ""
    if len(shape) == 1 and len(to) > 1 and shape[0] == to[0]:
        column = ", ".join(["1"] * (len(to) - 1))
        hint = f" For one {name} per sample, pass sample_weight= or reshape it to ({shape[0]}, {column})."
    raise ValueError(f"{name}: shape {shape} does not broadcast to the input's shape {to}.{hint}")


def check_sample_weight(shape: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """The shape, [N, 1, …, 1], in which one weight per sample multiplies the rest."""
    shape, to = tuple(shape), tuple(to)
    if not to or shape != to[:1]:
        expected = f"({to[0]},), one weight for each entry of the first axis" if to else "an input with a first axis"
        raise ValueError(f"sample_weight: shape {shape}, but the input's shape is {to}; expected {expected}")
    return (to[0],) + (1,) * (len(to) - 1)
