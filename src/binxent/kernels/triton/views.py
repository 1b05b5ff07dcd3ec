"""Describes how operands lie in memory, in the form in which the programs take it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Strides = tuple[int, ...]
WIDE_AT = 2**31


class View(NamedTuple):
    """A tensor as the input's shape sees it. Its strides, in elements: none if it is one number; one if its elements
    are evenly spaced, in row-major order; else one for each of the layout's axes, beginning with the last."""

    pointer: Tensor
    strides: Strides


class Rows(NamedTuple):
    """A sparse target: see ``binxent.targets.SparseRows``. It has no strides, by which the programs know it."""

    offsets: Tensor
    indices: Tensor
    stored: Tensor | None  # the values: Triton's tuples have another attribute of that name
    columns: int
    first: int
    strides: None = None


class Layout(NamedTuple):
    sizes: Strides  # of the axes, beginning with the last one; the first one's is left out
    strides: tuple[Strides, ...]  # of each view
    wide: int  # 1 where offsets need 64 bits, 2 where the sizes do


FLAT = (1,)


def _broadcast(shape: Strides, own: Strides, strides: Strides) -> Strides:
    lead = len(shape) - len(own)
    return (0,) * lead + tuple(0 if size == 1 else stride for size, stride in zip(own, strides, strict=True))


@functools.lru_cache(maxsize=1024)
def layout(shape: Strides, tensors: tuple[tuple[Strides, Strides, int], ...], block: int) -> Layout:
    """The layout of tensors that are given by shape, strides and bytes per element, and broadcast to this shape.

    Neighbouring axes become one wherever one stride serves both in every tensor.
    """
    given = [_broadcast(shape, own, strides) for own, strides, _ in tensors]
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in given]
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1:
            continue
        if sizes and all(strides[axis] == own[-1] * sizes[-1] for strides, own in zip(given, merged, strict=True)):
            sizes[-1] *= shape[axis]
            continue
        sizes.append(shape[axis])
        for strides, own in zip(given, merged, strict=True):
            own.append(strides[axis])
    size = functools.reduce(int.__mul__, sizes, 1)
    reach = [
        (1 + sum((n - 1) * abs(stride) for n, stride in zip(sizes, own, strict=True))) * bytes_
        for own, (_, _, bytes_) in zip(merged, tensors, strict=True)
    ]
    wide = 0
    if max([size + block, *reach]) >= WIDE_AT:
        wide = 2 if max([0, *sizes[:-1]]) + block >= WIDE_AT else 1
    return Layout(tuple(sizes[:-1]), tuple(tuple(own) if any(own) else () for own in merged), wide)


def views(tensors: Sequence[Tensor | None], shape: Strides, block: int) -> tuple[list[View | None], Strides, int]:
    """A view of each tensor, and what the programs need to know of all of them: sizes, and how wide offsets are."""
    found: list[View | None] = [None] * len(tensors)
    others = []
    for place, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if tensor.shape == shape and tensor.is_contiguous():
            found[place] = View(tensor, FLAT)
        else:
            others.append(place)
    if not others or 0 in shape:
        return [None if tensor is None else View(tensor, FLAT) for tensor in tensors], (), 0
    odd = [tensors[place] for place in others]
    known = layout(tuple(shape), tuple((tuple(t.shape), t.stride(), t.element_size()) for t in odd), block)  # type: ignore[union-attr]
    for place, strides in zip(others, known.strides, strict=True):
        found[place] = View(tensors[place], strides)  # type: ignore[arg-type]
    return found, known.sizes, known.wide
