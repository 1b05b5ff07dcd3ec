"""The kernel called directly: operands of NumPy arrays, fresh outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from binxent import kernel

Array = np.ndarray[Any, Any]


def operand(array: Array | None) -> kernel.Operand | None:
    return None if array is None else (array.ctypes.data, kernel.TAGS[array.dtype.name], array.shape, array.strides)


def compute(
    x: Array,
    target: Array,
    *weights: Array,
    pos_weight: Array | None = None,
    mask: Array | None = None,
    terms: tuple[float | None, float, float] | None = None,
    probabilities: bool = False,
    loss: Array | None = None,
    gradient: Array | None = None,
    value: Array | None = None,
    divisor: float | str = 1.0,
    incoming: float = 1.0,
    executor: int = 0,
) -> int:
    """Writes the outputs that are given; returns the kernel's flags."""
    return kernel.compute(
        probabilities,
        operand(x),
        operand(target),
        tuple(map(operand, weights)),
        operand(pos_weight),
        operand(mask),
        terms,
        operand(loss),
        operand(value),
        operand(gradient),
        divisor,
        incoming,
        executor,
    )


def outputs(x: Array, target: Array, *weights: Array, **options: Any) -> tuple[Array, Array, Array]:
    """The sum in float64, and loss and gradient of each element in the dtype of x."""
    value, loss, gradient = np.empty(()), np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    compute(x, target, *weights, value=value, loss=loss, gradient=gradient, **options)
    return value, loss, gradient
