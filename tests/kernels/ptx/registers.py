"""The registers of a block's threads. A register holds bits, one number for each thread, which an instruction takes as
its type says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.ptx import arithmetic

if TYPE_CHECKING:
    from tests.kernels.ptx.code import Instruction
    from tests.kernels.ptx.machine import Machine

Array = Any

TYPES = {
    "pred": np.dtype(np.bool_),
    **{f"{kind}{bits}": np.dtype(f"uint{bits}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
PREFIXES = (("%p", np.bool_), ("%rs", np.uint16), ("%rd", np.uint64), ("%r", np.uint32))


def width(name: str) -> Any:
    """The type that holds a register's bits."""
    return next(np.dtype(kind) for prefix, kind in PREFIXES if name.startswith(prefix))


def integer(number: int, kind: Any) -> Any:
    """The low bits of an integer, as a type."""
    bits = np.dtype(f"uint{8 * kind.itemsize}")
    return np.array(number % 2 ** (8 * kind.itemsize), bits).view(kind)


def constant(text: str, kind: Any) -> Any:
    if text.startswith(("0f", "0d")):
        wide = text.startswith("0d")
        raw = np.array(int(text[2:], 16), np.uint64 if wide else np.uint32)
        value = raw.view(np.float64 if wide else np.float32)
        return value if kind.kind == "f" else raw.astype(kind)
    number = int(text.rstrip("U"), 0)
    if kind.kind == "b":
        return np.array(number != 0)
    return integer(number, kind)


def register(machine: Machine, name: str) -> Array:
    """The bits of a register. Before it is written it holds anything: a result that depends on it will be wrong."""
    found = machine.registers.get(name)
    if found is None:
        found = np.full(len(machine.threads), integer(0xA5A5A5A5A5A5A5A5, width(name)))
    return found


def get(machine: Machine, name: str, type_: str) -> Array:
    """The operand as a type. A narrower type takes the low bits."""
    if name.startswith("%") or name in machine.registers:
        raw = register(machine, name)
        if type_ == "bf16":
            return arithmetic.from_bfloat16(raw)
        kind = TYPES[type_]
        if kind.itemsize < raw.itemsize:
            raw = raw.astype(f"uint{8 * kind.itemsize}")
        return raw.view(kind)
    if type_ == "bf16":
        return arithmetic.from_bfloat16(np.full(len(machine.threads), constant(name, TYPES["b16"])))
    return np.full(len(machine.threads), constant(name, TYPES[type_]))


def put(machine: Machine, instruction: Instruction, name: str, value: Array) -> None:
    """Writes a register, of the threads whose guard holds. A longer register is filled as the value's type says."""
    if name == "_":
        return
    kind = width(name)
    if kind != np.bool_:
        if value.dtype.kind == "f":
            value = value.view(f"uint{8 * value.itemsize}")
        value = value.astype(kind) if value.itemsize != kind.itemsize else value.view(kind)
    if instruction.guard:
        value = np.where(active(machine, instruction), value, register(machine, name))
    machine.registers[name] = value


def active(machine: Machine, instruction: Instruction) -> Array:
    if not instruction.guard:
        return np.ones(len(machine.threads), bool)
    return machine.registers[instruction.guard] != instruction.negated
