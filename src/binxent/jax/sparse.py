"""Sparse targets in JAX: ``IndexTargets``, which are a pytree here, and SciPy's matrices in CSR format.

A program has the target as a scatter into zeros of the input's shape, which XLA or the kernel then read.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from binxent import sparse
from binxent.targets import IndexTargets, rebuilt

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


class Labels(NamedTuple):
    """The places of a sparse target that are not 0. A column outside of the target is not seen."""

    row: Array
    column: Array
    values: Array | None  # None: all are 1
    spoilt: Array | None  # the rows that had a wrong label, and are NaN; None: none had


def labels(target: Any, shape: Shape, ignore_index: object) -> Labels:
    """The labels of a target of that shape.

    Labels whose numbers are at hand, on the processor, are checked. A compiled program cannot raise: there a row with a
    wrong label is NaN.
    """
    sparse.check(target, shape, ignore_index)
    if _is_at_hand(target):
        rows = sparse.rows(target, shape, ignore_index)
        row = np.repeat(np.arange(shape[0]), np.diff(rows.offsets))
        return Labels(jnp.asarray(row), jnp.asarray(rows.indices), rows.values, None)
    offsets = target.offsets
    if offsets is not None and offsets.shape[0] == shape[0]:
        offsets = jnp.append(offsets, jnp.asarray(target.indices.shape[0], offsets.dtype))
    found: Labels = _in_program(target.indices, offsets, target.padding, shape)
    return found


def window(labels: Labels, start: Any, shape: Shape, dtype: Any) -> Array:
    """The columns from ``start`` on, so many as the shape has, with all their elements."""
    row, column, values, spoilt = labels
    # What lies outside is dropped: an index that is negative would count from the end.
    column = column - start
    column = jnp.where((column < 0) | (column >= shape[1]), shape[1], column)
    target = jnp.zeros(shape, dtype).at[row, column].set(1 if values is None else values, mode="drop")
    return target if spoilt is None else jnp.where(spoilt[:, None], jnp.asarray(jnp.nan, dtype), target)


def dense(target: Any, input: Array, ignore_index: object) -> Array:
    """The target with all its elements: in the dtype of its values, or in the input's, which has NaN for wrong rows."""
    found = labels(target, tuple(input.shape), ignore_index)
    return window(found, 0, tuple(input.shape), dtype_of(found, input))


def dtype_of(labels: Labels, input: Array) -> Any:
    return input.dtype if labels.values is None else jnp.asarray(labels.values).dtype


def _is_at_hand(target: Any) -> bool:
    def on_processor(array: Any) -> bool:
        if isinstance(array, Tracer):
            return False
        return not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())

    return not isinstance(target, IndexTargets) or all(map(on_processor, (target.indices, target.offsets)))


@functools.partial(jax.jit, static_argnames=("padding", "shape"), inline=True)
def _in_program(indices: Array, offsets: Array | None, padding: int | None, shape: Shape) -> Labels:
    height, width = shape
    size, wrong_offsets = indices.size, jnp.zeros((), bool)
    if offsets is None:
        row = jnp.repeat(jnp.arange(height), indices.shape[1], total_repeat_length=size)
    else:
        row = jnp.searchsorted(offsets, jnp.arange(size, dtype=offsets.dtype), side="right") - 1
        wrong_offsets = (offsets[0] != 0) | (offsets[-1] != size) | (jnp.diff(offsets) < 0).any()
    indices = indices.reshape(-1)
    wrong = (indices < 0) | (indices >= width)
    column = jnp.where(wrong, width, indices)
    if padding is not None:
        wrong &= indices != padding
    return Labels(row, column, None, jnp.zeros(height, bool).at[row].max(wrong, mode="drop") | wrong_offsets)
