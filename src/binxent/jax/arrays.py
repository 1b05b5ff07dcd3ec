"""Adapts JAX to ``binxent.definition``, for arrays of one rank, of which leading axes may stay unsummed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from binxent import definition

if TYPE_CHECKING:
    from binxent.call import Call, Operands

Array = jax.Array


class Arrays:
    """JAX's operations on arrays that broadcast to ``shape``.

    The ``outer`` leading axes are not summed: all axes for the reduction "none", and those that vmap adds. A summed
    axis stays, with size 1. ``wide`` replaces the arithmetic's type.
    """

    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    log1p = staticmethod(jnp.log1p)
    where = staticmethod(jnp.where)
    isinf = staticmethod(jnp.isinf)
    zeros_like = staticmethod(jnp.zeros_like)
    clip = staticmethod(jnp.clip)

    def __init__(self, shape: tuple[int, ...] = (), outer: int = 0, wide: Any = None) -> None:
        self.shape, self.outer, self.wide = shape, outer, wide

    def cast(self, array: Array, dtype: str) -> Array:
        if dtype != "bool":
            return array.astype(dtype)
        # Under strict promotion JAX refuses to compare a boolean with 0.
        return array if array.dtype == jnp.bool else array != 0

    def widen(self, array: Array, dtype: str) -> Array:
        return array.astype(self.wide or (jnp.float64 if dtype == "float64" else jnp.float32))

    def _summed(self, array: Array, **options: Any) -> Array:
        axes = tuple(range(self.outer, len(self.shape)))
        result: Array = jnp.sum(jnp.broadcast_to(array, self.shape), axes, keepdims=True, **options)
        return result

    def sum(self, array: Array) -> Array:
        return self._summed(array)

    def count(self, keep: Array, like: Array) -> Array:
        return self._summed(keep, dtype=jnp.uint32)  # a count in float32 would stop at 2²⁴

    def size(self, array: Array) -> Array:
        """The number of elements, as an array: in an exported program it may be a symbol, which cannot divide."""
        return jnp.asarray(math.prod(self.shape[self.outer :]), array.dtype)

    def rows(self, array: Array) -> Array:
        return jnp.asarray(self.shape[self.outer], array.dtype)

    def like(self, array: Array, operand: Array) -> Array:
        """The array in the full shape, which every gradient has: JAX itself sums over what vmap has broadcast."""
        return jnp.broadcast_to(array, self.shape)

    def number(self, number: float, x: Array) -> float:
        return number

    def probability(self, call: Call, x: Array, y: Array) -> Array:
        result: Array = definition.nan_outside(self, call, x, y)
        return result

    def checked(self, call: Call, x: Array, y: Array, operands: Operands, keep: Array | None) -> Array:
        result: Array = definition.nan_where_wrong(self, call, x, y, operands, keep)
        return result
