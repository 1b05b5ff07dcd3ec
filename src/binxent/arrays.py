"""Reads an array, or a framework's tensor, as a NumPy array, without a copy where that is possible.

No framework is imported: a tensor shares its memory through DLPack or ``__array__``.
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
    """Returns the value as an array. Raises TypeError if it holds no numbers, or holds them on another device."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: the mask of a numpy.ma.MaskedArray would be ignored; pass its .filled(…) or .data")
    if hasattr(value, "detach"):  # NumPy cannot read a torch tensor that requires a gradient
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
