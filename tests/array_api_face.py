"""A face for array-api-strict in one file, made by following "Add a framework" in docs/architecture.md.

It computes with the definition alone. The library refuses whatever the array API standard does not promise, so what
runs here runs in any library that keeps to the standard.
"""

from __future__ import annotations

from typing import Any

import array_api_strict as standard

from binxent import definition
from binxent.call import Call, Operands, plan
from binxent.formula import LOGITS

Array = Any


class Arrays:
    """The operations of ``definition.Arrays``."""

    exp = staticmethod(standard.exp)
    log = staticmethod(standard.log)
    log1p = staticmethod(standard.log1p)
    where = staticmethod(standard.where)
    isinf = staticmethod(standard.isinf)
    zeros_like = staticmethod(standard.zeros_like)

    def cast(self, array: Array, dtype: str) -> Array:
        return standard.astype(array, standard.bool if dtype == "bool" else getattr(standard, dtype))

    def widen(self, array: Array, dtype: str) -> Array:
        return self.cast(array, "float64" if dtype == "float64" else "float32")

    def clip(self, array: Array, low: float, high: float) -> Array:
        return standard.clip(array, low, high)

    def sum(self, array: Array) -> Array:
        return standard.sum(array, dtype=standard.float64)

    def count(self, keep: Array, like: Array) -> Array:
        return standard.sum(standard.astype(standard.broadcast_to(keep, like.shape), standard.float64))

    def size(self, array: Array) -> int:
        return int(array.size)

    def rows(self, array: Array) -> int:
        return int(array.shape[0])

    def like(self, array: Array, operand: Array) -> Array:
        lead = array.ndim - operand.ndim
        axes = tuple(d for d, n in enumerate(array.shape) if d < lead or operand.shape[d - lead] != n)
        return standard.reshape(standard.sum(array, axis=axes), operand.shape) if axes else array

    def number(self, number: float, x: Array) -> float:
        return number

    def probability(self, call: Call, x: Array, y: Array) -> Array:
        return definition.nan_outside(self, call, x, y)

    def checked(self, call: Call, x: Array, y: Array, operands: Operands, keep: Array | None) -> Array:
        return definition.nan_where_wrong(self, call, x, y, operands, keep)


def _name(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]


def value_and_grad(
    input: Array,
    target: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
    mask: Array | None = None,
    **numbers: Any,
) -> tuple[Array, Array]:
    """Loss and gradient of logits. ``numbers`` are ignore_index, label_smoothing and gamma."""
    shapes = {"weight": weight, "pos_weight": pos_weight, "mask": mask}
    call = plan(
        LOGITS,
        reduction,
        (_name(input), _name(target)),
        input.shape,
        target.shape,
        **{name: None if given is None else given.shape for name, given in shapes.items()},
        **numbers,
    )
    operands = Operands(input, target, weight, None, pos_weight, mask)
    xp = Arrays()
    values = definition.prepare(xp, call, operands)
    one = standard.asarray(1.0, dtype=input.dtype)
    gradient = definition.gradient(xp, call, operands, values, "input", _name(input), one)
    return definition.loss(xp, call, operands), gradient
