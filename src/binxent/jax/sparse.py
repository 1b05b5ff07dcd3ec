"""Sparse targets in JAX: ``IndexTargets``, which are a pytree here, and SciPy's matrices in CSR format.

The kernel reads their labels as they are. Where XLA computes the formula, a program scatters them into zeros.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

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
    """A sparse target as the kernel reads it: ``SparseRows`` without its shape, as a pytree.

    Between the last offset and the end there may be more indices, which are not seen.
    """

    offsets: Array
    indices: Array
    first: Array  # the label that column 0 stands for, which may be an operand of a program
    values: Array | None = None

    @property
    def dtype(self) -> Any:
        """The target's dtype."""
        return np.dtype(bool) if self.values is None else self.values.dtype

    def parts(self) -> list[Array]:
        """The operands of a program that make the target."""
        return [part for part in self if part is not None]


def labels(target: Any, shape: Shape, ignore_index: object) -> Labels:
    """The labels of a target of that shape.

    Labels whose numbers are at hand, on the processor, are checked. A compiled program cannot raise: there a row with a
    wrong label is NaN.
    """
    sparse.check(target, shape, ignore_index)
    if _is_at_hand(target):
        rows = sparse.rows(target, shape, ignore_index)
        values = None if rows.values is None else jnp.asarray(_with_room(rows.values))
        return Labels(jnp.asarray(rows.offsets), jnp.asarray(_with_room(rows.indices)), _first(), values)
    indices, offsets = _undivided(target.indices), None if target.offsets is None else _undivided(target.offsets)
    found: Labels = _in_program(indices, offsets, target.padding, shape)
    return found


def dense(labels: Labels, shape: Shape, dtype: Any) -> Array:
    """The target with all its elements: of its values' dtype, or of the one given, which has NaN for wrong rows."""
    offsets, indices, first, values = labels
    height, width = shape
    # What lies outside is dropped: an index that is negative would count from the end.
    column = indices - first
    column = jnp.where((column < 0) | (column >= width), width, column)
    row = jnp.searchsorted(offsets, jnp.arange(indices.size, dtype=offsets.dtype), side="right") - 1
    if values is not None:  # they are at hand, and so no row is wrong
        return jnp.zeros(shape, values.dtype).at[row, column].set(values, mode="drop")
    spoilt = jnp.zeros(height, bool).at[row].max(indices < 0, mode="drop")
    target = jnp.zeros(shape, dtype).at[row, column].set(1, mode="drop")
    return jnp.where(spoilt[:, None], jnp.asarray(jnp.nan, dtype), target)


def _undivided(array: Any) -> Any:
    """The array, whole on each device of a mesh of explicit axes, over which labels cannot be scattered."""
    sharding = jax.typeof(array).sharding
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, PartitionSpec())) if any(sharding.spec) else array


def _first() -> Array:
    return jnp.zeros((), jnp.int32)


def _with_room(stored: Any) -> Any:
    """As many places as a power of two, so that eager code does not compile for each number of labels."""
    room = 1 << max(len(stored) - 1, 0).bit_length()
    return np.concatenate((stored, np.zeros(room - len(stored), stored.dtype)))


def _is_at_hand(target: Any) -> bool:
    def on_processor(array: Any) -> bool:
        if isinstance(array, Tracer):
            return False
        return not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())

    return not isinstance(target, IndexTargets) or all(map(on_processor, (target.indices, target.offsets)))


@functools.partial(jax.jit, static_argnames=("padding", "shape"), inline=True)
def _in_program(indices: Array, offsets: Array | None, padding: int | None, shape: Shape) -> Labels:
    """Labels in order. What pads becomes C, which is not seen; what is wrong becomes -1, which stands first."""
    height, width = shape
    if indices.dtype.itemsize < 4:  # C may not fit in it
        indices = indices.astype(jnp.int32)
    elif jnp.issubdtype(indices.dtype, jnp.unsignedinteger):
        indices = jnp.minimum(indices, np.iinfo(jnp.int32).max).astype(jnp.int32)
    wrong = (indices < 0) | (indices >= width)
    found = jnp.where(wrong, -1, indices)
    known = np.iinfo(indices.dtype)
    if padding is not None and known.min <= padding <= known.max:
        found = jnp.where(indices == padding, width, found)
    if offsets is None:
        bounds = jnp.arange(height + 1, dtype=jnp.int32) * indices.shape[1]
        return Labels(bounds, jnp.sort(found, axis=1).reshape(-1), _first())
    size = indices.size
    if offsets.shape[0] == height:
        offsets = jnp.append(offsets, jnp.asarray(size, offsets.dtype))
    row = jnp.searchsorted(offsets, jnp.arange(size, dtype=offsets.dtype), side="right") - 1
    # Each row has one more place, which is wrong where the offsets are, so that a row without labels is NaN too.
    fits = (offsets[0] == 0) & (offsets[-1] == size) & (jnp.diff(offsets) >= 0).all()
    rows = jnp.concatenate((row.astype(jnp.int32), jnp.arange(height, dtype=jnp.int32)))
    more = jnp.full(height, width, found.dtype)
    rows, found = jax.lax.sort((rows, jnp.concatenate((found, jnp.where(fits, more, -1)))), num_keys=2)
    # The offsets that were given may lead out of memory; these do not.
    bounds = jnp.searchsorted(rows, jnp.arange(height + 1, dtype=jnp.int32)).astype(jnp.int32)
    return Labels(bounds, found, _first())
