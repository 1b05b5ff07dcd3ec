"""What instructions compute, as functions of arrays."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.ptx import arithmetic
from tests.kernels.ptx.registers import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any


def shifted(left: bool) -> Callable[[Array, Array], Array]:
    def shift(a: Array, by: Array) -> Array:
        bits = 8 * a.itemsize
        kept = (np.left_shift if left else np.right_shift)(a, np.minimum(by, bits - 1).astype(a.dtype))
        beyond = np.zeros_like(a) if left or a.dtype.kind == "u" else np.right_shift(a, a.dtype.type(bits - 1))
        return np.where(by >= bits, beyond, kept)

    return shift


def _quotient(a: Array, b: Array) -> Array:
    """Towards zero."""
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ZeroDivisionError
    size = np.abs(a) // np.abs(b) if a.dtype.kind == "i" else a // b
    return np.where((a < 0) != (b < 0), -size, size).astype(a.dtype)


def _remainder(a: Array, b: Array) -> Array:
    return a - _quotient(a, b) * b


def least(a: Array, b: Array) -> Array:
    """A NaN gives way to a number, and −0 is less than 0."""
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), a, b), np.fmin(a, b))


def most(a: Array, b: Array) -> Array:
    return -least(-a, -b)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _quotient,
    "rem": _remainder,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "min": np.minimum,
    "max": np.maximum,
    "copysign": lambda a, b: np.copysign(b, a),
}
UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": lambda a: -a,
    "abs": np.abs,
    "not": np.invert,
}
REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}  # over the threads of a warp
SIGN_BITS = {2: np.uint16(0x8000), 4: np.uint32(0x80008000)}
SIGNS: dict[str, Callable[[Array], Array]] = {  # of one or two numbers of 16 bits
    "neg": lambda a: a ^ SIGN_BITS[a.itemsize],
    "abs": lambda a: a & ~SIGN_BITS[a.itemsize],
}
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}


def compare(what: str, a: Array, b: Array) -> Array:
    """A comparison of numbers; one that ends with u is also true of a NaN."""
    either = (a != a) | (b != b)
    if what.endswith("u") and what[:-1] in COMPARISONS:
        return COMPARISONS[what[:-1]](a, b) | either
    found = COMPARISONS[what](a, b)
    return found & ~either if what == "ne" else found


def permute(a: Array, b: Array, selectors: int) -> Array:
    sources = [(a >> np.uint32(8 * k)) & np.uint32(255) for k in range(4)]
    sources += [(b >> np.uint32(8 * k)) & np.uint32(255) for k in range(4)]
    found = np.zeros_like(a)
    for k in range(4):
        nibble = selectors >> (4 * k) & 15
        byte = sources[nibble & 7]
        if nibble & 8:  # its sign, eight times
            byte = (byte >> np.uint32(7)) * np.uint32(255)
        found |= byte << np.uint32(8 * k)
    return found


def converted(value: Array, to: str) -> Array:
    if to == "bf16":
        return arithmetic.to_bfloat16(value)
    if to == "f16":
        return arithmetic.to_float16(value)
    kind = TYPES[to]
    if value.dtype.kind == "f" and kind.kind in "iu":
        return arithmetic.to_integer(value, 8 * kind.itemsize)
    return value.astype(kind)
