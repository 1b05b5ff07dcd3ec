"""Sparse targets in JAX: ``IndexTargets``, which are a pytree here, and SciPy's matrices in CSR format.

A program has the target as a scatter into zeros of the input's shape, which XLA or the kernel then read.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from binxent import sparse
from binxent.targets import IndexTargets, SparseRows, rebuilt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from binxent.jax.arrays import Array

    Shape = tuple[int, ...]


def _flatten(targets: IndexTargets) -> tuple[tuple[Any, Any], tuple[int | None, int | None]]:
    return (targets.indices, targets.offsets), (targets.padding, targets.num_labels)


def _flatten_with_keys(targets: IndexTargets) -> tuple[Any, tuple[int | None, int | None]]:
    leaves, rest = _flatten(targets)
    return [*zip(map(jax.tree_util.GetAttrKey, ("indices", "offsets")), leaves, strict=True)], rest


def _unflatten(rest: tuple[int | None, int | None], leaves: Iterable[Any]) -> IndexTargets:
    indices, offsets = leaves
    return rebuilt(indices, offsets, *rest)


jax.tree_util.register_pytree_with_keys(IndexTargets, _flatten_with_keys, _unflatten, _flatten)


def is_target(target: object) -> bool:
    return isinstance(target, IndexTargets) or sparse.is_scipy(target)


def dense(target: Any, input: Array, ignore_index: object) -> Array:
    """The target with all its elements: in the dtype of its values, or in the input's, which has NaN for wrong rows.

    Labels whose numbers are at hand, on the processor, are checked. A compiled program cannot raise: there a row with a
    wrong label is NaN.
    """
    sparse.check(target, input.shape, ignore_index)
    if _is_at_hand(target):
        return _scattered(sparse.rows(target, input.shape, ignore_index), input.dtype)
    offsets = target.offsets
    if offsets is not None and offsets.shape[0] == input.shape[0]:
        offsets = jnp.append(offsets, jnp.asarray(target.indices.shape[0], offsets.dtype))
    scattered: Array = _in_program(target.indices, offsets, target.padding, tuple(input.shape), input.dtype)
    return scattered


def _is_at_hand(target: Any) -> bool:
    def on_processor(array: Any) -> bool:
        if isinstance(array, Tracer):
            return False
        return not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())

    return not isinstance(target, IndexTargets) or all(map(on_processor, (target.indices, target.offsets)))


def _scattered(rows: SparseRows, dtype: Any) -> Array:
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.offsets))
    values = np.ones((), dtype) if rows.values is None else rows.values
    return jnp.zeros(rows.shape, values.dtype).at[row, rows.indices].set(values)


@functools.partial(jax.jit, static_argnames=("padding", "shape", "dtype"), inline=True)
def _in_program(indices: Array, offsets: Array | None, padding: int | None, shape: Shape, dtype: Any) -> Array:
    height, width = shape
    size, wrong_offsets = indices.size, jnp.zeros((), bool)
    if offsets is None:
        row = jnp.repeat(jnp.arange(height), indices.shape[1], total_repeat_length=size)
    else:
        row = jnp.searchsorted(offsets, jnp.arange(size, dtype=offsets.dtype), side="right") - 1
        wrong_offsets = (offsets[0] != 0) | (offsets[-1] != size) | (jnp.diff(offsets) < 0).any()
    indices = indices.reshape(-1)
    wrong, column = (indices < 0) | (indices >= width), indices
    if padding is not None:
        wrong &= indices != padding
    # What lies outside is dropped: an index that is negative would count from the end.
    column = jnp.where((indices < 0) | (indices >= width), width, indices)
    target = jnp.zeros(shape, dtype).at[row, column].set(1, mode="drop")
    spoilt = jnp.zeros(height, bool).at[row].max(wrong, mode="drop") | wrong_offsets
    return jnp.where(spoilt[:, None], jnp.asarray(jnp.nan, dtype), target)
