"""Adapts NumPy to ``binxent.definition``: the reference of every test, in any floating type up to longdouble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binxent import definition

if TYPE_CHECKING:
    from binxent.call import Call, Operands

Array = Any


class Arrays:
    """NumPy's operations. ``wide`` replaces the arithmetic's type, for a reference that is wider than the result."""

    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    where = staticmethod(np.where)
    isinf = staticmethod(np.isinf)
    zeros_like = staticmethod(np.zeros_like)
    clip = staticmethod(np.clip)
    size = staticmethod(np.size)
    rows = staticmethod(len)

    def __init__(self, wide: Any = None) -> None:
        self.wide = wide

    def cast(self, array: Array, dtype: str) -> Array:
        array = np.asarray(array)
        return array != 0 if dtype == "bool" else array.astype(dtype)

    def widen(self, array: Array, dtype: str) -> Array:
        return np.asarray(array).astype(self.wide or (np.float64 if dtype == "float64" else np.float32))

    def sum(self, array: Array) -> Array:
        return np.sum(array, dtype=np.promote_types(array.dtype, np.float64))

    def count(self, keep: Array, like: Array) -> Array:
        return np.count_nonzero(np.broadcast_to(keep, like.shape))

    def like(self, array: Array, operand: Array) -> Array:
        lead = array.ndim - operand.ndim
        axes = tuple(d for d, n in enumerate(array.shape) if d < lead or operand.shape[d - lead] != n)
        return np.sum(array, axes, dtype=np.promote_types(array.dtype, np.float64)).reshape(operand.shape)

    def number(self, number: float, x: Array) -> Any:
        return number

    def probability(self, call: Call, x: Array, y: Array) -> Array:
        return definition.nan_outside(self, call, x, y)

    def checked(self, call: Call, x: Array, y: Array, operands: Operands, keep: Array | None) -> Array:
        return definition.nan_where_wrong(self, call, x, y, operands, keep)
