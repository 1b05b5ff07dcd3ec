"""A NumPy array of what a caller has: an array, or a framework's tensor; without a copy where it can be.

No framework is imported: a tensor shares its memory by DLPack, or by ``__array__``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def is_arrow(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "pyarrow"


def is_sparse(value: object) -> bool:
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def as_array(name: str, value: Any) -> Array:
    """Raises TypeError for what has no numbers, or has them on another device than the processor."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; pass its .filled(…) or .data")
    if hasattr(value, "detach"):  # a torch tensor that requires a gradient refuses to be an array
        value = value.detach()
    by_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
    try:
        array = np.from_dlpack(value) if by_dlpack else np.asarray(value)
    except (TypeError, RuntimeError, ValueError, BufferError) as refusal:
        hint = "; move a tensor to the processor, and bfloat16 to float32, before"
        raise TypeError(f"{name}: {type(value).__name__} cannot be read as an array ({refusal}){hint}") from refusal
    if array.dtype.kind in "OSUMmc" or array.dtype.type is np.void:  # bfloat16 is of the kind V
        raise TypeError(f"{name}: {type(value).__name__} has dtype {array.dtype}; expected real numbers")
    return array
