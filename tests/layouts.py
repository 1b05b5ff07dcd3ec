"""The same values in every layout that an array can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def contiguous(a: Array) -> Array:
    return a.copy()


def transposed(a: Array) -> Array:
    return a.T.copy().T


def middle_first(a: Array) -> Array:
    return np.moveaxis(np.moveaxis(a, a.ndim // 2, 0).copy(), 0, a.ndim // 2)


def stepped(a: Array) -> Array:
    wide = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
    view = wide[tuple(slice(1, 2 * n, 2) if n else slice(0, 0) for n in a.shape)]
    view[...] = a
    return view


def reversed_(a: Array) -> Array:
    flip = (slice(None, None, -1),) * a.ndim
    return a[flip].copy()[flip]


def misaligned(a: Array) -> Array:
    view = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def field(a: Array) -> Array:
    """Of packed records: strides that are no multiple of the element."""
    # Through bytes, since a record may not hold an ml_dtypes field in every version of NumPy.
    records = np.zeros((*a.shape, a.itemsize + 3), np.uint8)
    view = np.ndarray(a.shape, a.dtype, records, 3, records.strides[:-1])
    view[...] = a
    return view


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    f.__name__.strip("_"): f for f in (contiguous, transposed, middle_first, stepped, reversed_, misaligned, field)
}
