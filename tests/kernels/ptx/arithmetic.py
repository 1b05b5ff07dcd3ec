"""Rounds as PTX says. An array has one number for each thread of a block."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np

Array = Any  # of one element for each thread

ONE_NAN = np.uint32(0x7FFFFFFF).view(np.float32)  # the one that float32 arithmetic gives
# The rounding to float32 adds a quarter of 2^-22: then the error is at most 2^-22, which is 2 ulp.
APPROXIMATE = 0.75 * 2.0**-22


def _fma_of_libm() -> Any:
    function = ctypes.CDLL(ctypes.util.find_library("m")).fma
    function.argtypes, function.restype = [ctypes.c_double] * 3, ctypes.c_double
    return np.frompyfunc(function, 3, 1)


_fma64 = _fma_of_libm()


def one_nan(value: Array) -> Array:
    if value.dtype == np.float32:
        unknown = value != value
        if unknown.any():
            return np.where(unknown, ONE_NAN, value)
    return value


def to_odd(total: Array, lost: Array) -> Array:
    """``total`` + ``lost`` in float64, in which ``lost`` is below half an ulp: rounded so that rounding it again to a
    shorter type is as if it had been rounded once."""
    raw = total.view(np.int64)
    away = np.where((lost > 0) == (total > 0), 1, -1)
    inexact = (lost != 0) & np.isfinite(lost) & (raw & 1 == 0)
    return (raw + np.where(inexact, away, 0)).view(np.float64)


def fma(a: Array, b: Array, c: Array) -> Array:
    """a·b + c, rounded once."""
    if a.dtype == np.float64:
        return _fma64(a, b, c).astype(np.float64)
    product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)  # exact
    total = product + c
    other = total - product
    lost = (product - (total - other)) + (c - other)
    return one_nan(to_odd(total, lost).astype(np.float32))


def approximate(value: Array, *arguments: Array) -> Array:
    """The value in float32, off by up to 2⁻²² of itself. How far depends on the arguments alone, as on a card."""
    mixed = np.zeros(value.shape, np.uint32)
    for argument in arguments:
        mixed = (mixed ^ argument.view(np.uint32)) * np.uint32(2654435761)
        mixed ^= mixed >> np.uint32(15)
    share = mixed.astype(np.float64) / 2.0**31 - 1
    return one_nan((value * (1 + np.clip(1.5 * share, -1, 1) * APPROXIMATE)).astype(np.float32))


def flushed(value: Array) -> Array:
    """Subnormal numbers as zeros of their sign (``.ftz``)."""
    return np.where(np.abs(value) < np.float32(2.0**-126), np.copysign(np.float32(0), value), value)


def ex2(a: Array) -> Array:
    return flushed(approximate(np.exp2(flushed(a).astype(np.float64)), a))


def rcp(a: Array) -> Array:
    return flushed(approximate(1 / flushed(a).astype(np.float64), a))


def div_full(a: Array, b: Array) -> Array:
    return approximate(a.astype(np.float64) / b.astype(np.float64), a, b)


# Types of 16 bits


def from_bfloat16(raw: Array) -> Array:
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(value: Array) -> Array:
    """Rounded to the nearest, ties to even; as 16 bits."""
    raw = value.view(np.uint32).astype(np.uint64)
    rounded = (raw + 0x7FFF + (raw >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(value != value, 0x7FFF, rounded).astype(np.uint16)


def to_float16(value: Array) -> Array:
    raw = value.astype(np.float16).view(np.uint16)
    return np.where(value != value, 0x7FFF, raw).astype(np.uint16)


def to_integer(value: Array, bits: int) -> Array:
    """Towards zero, and to the nearest that the type holds."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    nan = least if bits == 64 or value.dtype == np.float64 else 0
    whole = np.array([nan if v != v else max(least, min(most, int(np.clip(v, -1e300, 1e300)))) for v in value.tolist()])
    return whole.astype(f"int{bits}")
