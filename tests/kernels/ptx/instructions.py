"""What each instruction does to the machine: it is bound to its step by ``find``, by its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.ptx import arithmetic, values
from tests.kernels.ptx.registers import TYPES, active, get, integer, put

if TYPE_CHECKING:
    from tests.kernels.ptx.code import Instruction
    from tests.kernels.ptx.machine import Machine

Array = Any
Step = Any

WARP = 32


# Values


def _unary(function: Any, type_: str, i: Instruction, m: Machine) -> None:
    put(m, i, i.operands[0], function(get(m, i.operands[1], type_)))


def _binary(function: Any, type_: str, second: str, i: Instruction, m: Machine) -> None:
    found = function(get(m, i.operands[1], type_), get(m, i.operands[2], second))
    put(m, i, i.operands[0], found if i.name.startswith("copysign") else arithmetic.one_nan(found))


def _fma(type_: str, i: Instruction, m: Machine) -> None:
    put(m, i, i.operands[0], arithmetic.fma(*(get(m, name, type_) for name in i.operands[1:])))


def _multiply(type_: str, adds: bool, i: Instruction, m: Machine) -> None:
    """The whole product of two integers, twice as long, to which a third may be added."""
    wide = TYPES[type_[0] + str(2 * int(type_[1:]))]
    product = get(m, i.operands[1], type_).astype(wide) * get(m, i.operands[2], type_).astype(wide)
    if adds:
        product = product + get(m, i.operands[3], type_[0] + str(2 * int(type_[1:])))
    put(m, i, i.operands[0], product)


def _multiply_low(type_: str, i: Instruction, m: Machine) -> None:
    a, b, c = (get(m, name, type_) for name in i.operands[1:])
    put(m, i, i.operands[0], a * b + c)


def _setp(what: str, type_: str, i: Instruction, m: Machine) -> None:
    if len(i.operands) != 3 or "|" in i.operands[0]:
        raise NotImplementedError(i.text)
    put(m, i, i.operands[0], values.compare(what, get(m, i.operands[1], type_), get(m, i.operands[2], type_)))


def _setp_pair(what: str, type_: str, i: Instruction, m: Machine) -> None:
    """Of two numbers in each register: the predicate of the low one, then that of the high one."""
    for k, name in enumerate(i.operands[0].split("|")):
        halves = [(get(m, operand, "b32") >> np.uint32(16 * k)).astype(np.uint16) for operand in i.operands[1:]]
        a, b = (arithmetic.from_bfloat16(h) if type_ == "bf16" else h.view(np.float16) for h in halves)
        put(m, i, name, values.compare(what, a, b))


def _selp(type_: str, i: Instruction, m: Machine) -> None:
    one, other = get(m, i.operands[1], type_), get(m, i.operands[2], type_)
    put(m, i, i.operands[0], np.where(get(m, i.operands[3], "pred"), one, other))


def _cvt(to: str, of: str, i: Instruction, m: Machine) -> None:
    put(m, i, i.operands[0], values.converted(get(m, i.operands[1], of), to))


def _cvt_pair(to: str, i: Instruction, m: Machine) -> None:
    high, low = (values.converted(get(m, name, "f32"), to).astype(np.uint32) for name in i.operands[1:])
    put(m, i, i.operands[0], high << np.uint32(16) | low)


def _move(type_: str, i: Instruction, m: Machine) -> None:
    """Between registers, or between a register and the shorter ones that it is made of."""
    if "{" not in i.text:
        put(m, i, i.operands[0], get(m, i.operands[1], type_))
    elif i.text.rstrip().endswith("}"):
        name, *parts = i.operands
        kind = TYPES[type_]
        bits = 8 * kind.itemsize // len(parts)
        found = np.zeros(len(m.threads), kind)
        for k, part in enumerate(parts):
            found |= get(m, part, f"b{bits}").astype(kind) << kind.type(bits * k)
        put(m, i, name, found)
    else:
        *parts, name = i.operands
        raw = get(m, name, type_)
        bits = 8 * raw.itemsize // len(parts)
        for k, part in enumerate(parts):
            put(m, i, part, (raw >> raw.dtype.type(bits * k)).astype(f"uint{bits}"))


def _prmt(i: Instruction, m: Machine) -> None:
    a, b = get(m, i.operands[1], "b32"), get(m, i.operands[2], "b32")
    put(m, i, i.operands[0], values.permute(a, b, int(i.operands[3].rstrip("U"), 0)))


def _bfe(type_: str, i: Instruction, m: Machine) -> None:
    a = get(m, i.operands[1], type_)
    first, length = int(i.operands[2]), int(i.operands[3])
    rest = a.dtype.type(8 * a.itemsize - length)
    put(m, i, i.operands[0], (a << a.dtype.type(rest - first)) >> rest)


def _popc(i: Instruction, m: Machine) -> None:
    ones = np.unpackbits(get(m, i.operands[1], "b32").view(np.uint8).reshape(-1, 4), axis=1).sum(1)
    put(m, i, i.operands[0], ones.astype(np.uint32))


# Memory

PLACE = re.compile(r"\[\s*([%\w]+)(?:\s*\+\s*(-?\d+))?\s*\]")


def _addresses(m: Machine, text: str) -> Array:
    name, beyond = PLACE.fullmatch(text).groups()  # type: ignore[union-attr]
    found = m.registers[name].astype(np.int64)
    return found + int(beyond or 0)


def _load(space: str, type_: str, count: int, i: Instruction, m: Machine) -> None:
    kind = TYPES[type_]
    memory, active_ = (m.shared if space == "shared" else m.memory), active(m, i)
    size = kind.itemsize * count
    rows = np.zeros((len(m.threads), size), np.uint8)
    if active_.any():
        addresses = _addresses(m, i.operands[-1])[active_]
        rows[active_] = memory.load(addresses, m.threads[active_], size, size)
    for k in range(count):
        put(m, i, i.operands[k], np.ascontiguousarray(rows.view(kind)[:, k]))


def _store(space: str, type_: str, count: int, i: Instruction, m: Machine) -> None:
    memory, active_ = (m.shared if space == "shared" else m.memory), active(m, i)
    if active_.any():
        given = np.stack([get(m, name, type_) for name in i.operands[1:]], 1)[active_]
        addresses = _addresses(m, i.operands[0])[active_]
        rows = np.ascontiguousarray(given).view(np.uint8).reshape(len(given), -1)
        memory.store(addresses, m.threads[active_], rows, rows.shape[1])


def _parameter(type_: str, i: Instruction, m: Machine) -> None:
    number = integer(m.arguments[i.operands[1].strip("[]")], TYPES[type_])
    put(m, i, i.operands[0], np.full(len(m.threads), number))


def _atomic_add(type_: str, i: Instruction, m: Machine) -> None:
    """Of one thread at a time: it acquires what others released."""
    (where,) = np.nonzero(active(m, i))
    kind = TYPES[type_]
    addresses, added = _addresses(m, i.operands[1]), get(m, i.operands[2], type_)
    before = np.zeros(len(m.threads), kind)
    for thread in where:
        span, _, places = m.memory.parts(addresses[thread : thread + 1], kind.itemsize, kind.itemsize)[0]
        before[thread] = span.data[places[0]].view(kind)[0]
        span.data[places[0]] = np.array([before[thread] + added[thread]], kind).view(np.uint8)
        m.epoch.has_acquired = True
    put(m, i, i.operands[0], before)


# Between threads


def _barrier(i: Instruction, m: Machine) -> None:
    """Of all threads of the block."""
    if i.operands != ("0",):
        raise NotImplementedError(i.text)
    if m.uniform(active(m, i)):
        m.epoch.barrier()


def _exchange(i: Instruction, m: Machine) -> None:
    if i.operands[3:] != ("31", "-1"):
        raise NotImplementedError(i.text)
    put(m, i, i.operands[0], get(m, i.operands[1], "b32")[m.threads ^ int(i.operands[2])])


def _reduce(function: Any, type_: str, i: Instruction, m: Machine) -> None:
    if not (get(m, i.operands[2], "b32") == 2**32 - 1).all():
        raise NotImplementedError(i.text)
    warps = get(m, i.operands[1], type_).reshape(-1, WARP)
    found = function.reduce(warps, axis=1, dtype=warps.dtype)
    put(m, i, i.operands[0], np.repeat(found, WARP))


def _matrices(m: Machine, parts: int) -> list[tuple[Array, Array]]:
    """Of each of the matrices of eight rows of 16 bytes: where each thread finds its two elements of 16 bits, as the
    thread that names the row and a word of the row. Threads 8k to 8k + 7 name the rows of the k-th."""
    first, lane = m.threads // WARP * WARP, m.threads % WARP
    return [(first + 8 * k + lane // 4, lane % 4) for k in range(parts)]


def _load_matrices(i: Instruction, m: Machine) -> None:
    *names, place = i.operands
    named = m.threads[m.threads % WARP < 8 * len(names)]
    rows = np.zeros((len(m.threads), 4), np.uint32)
    rows[named] = m.shared.load(_addresses(m, place)[named], named, 16, 16).view(np.uint32)
    for name, found in zip(names, _matrices(m, len(names)), strict=True):
        put(m, i, name, rows[found])


def _store_matrices(i: Instruction, m: Machine) -> None:
    place, *names = i.operands
    named = m.threads[m.threads % WARP < 8 * len(names)]
    rows = np.zeros((len(m.threads), 4), np.uint32)
    for name, found in zip(names, _matrices(m, len(names)), strict=True):
        rows[found] = get(m, name, "b32")
    m.shared.store(_addresses(m, place)[named], named, rows.view(np.uint8)[named], 16)


# Names: a pattern of the whole name, so that nothing with one modifier more is run as something else

part = functools.partial
FLOAT, INTEGER, BITS = r"(f32|f64)", r"([us](?:16|32|64))", r"(b(?:16|32|64)|pred)"
ANY = r"([busf](?:16|32|64)|bf16|pred)"
PATTERNS: list[tuple[str, Callable[..., Step]]] = [
    (r"(ld|st)(?:\.volatile)?\.(global|shared)(?:::cta)?(?:\.v(\d))?\.([bus]\d+)", lambda *found: _memory_step(*found)),
    (r"ld\.param\.([bus]\d+)", lambda type_: part(_parameter, type_)),
    (r"atom\.global\.gpu\.acq_rel\.add\.(u32)", lambda type_: part(_atomic_add, type_)),
    (
        r"(ld|st)matrix\.sync\.aligned\.m8n8\.x\d\.shared\.b16",
        lambda way: _load_matrices if way == "ld" else _store_matrices,
    ),
    (r"setp\.(\w+)\." + ANY, lambda what, type_: part(_setp, what, type_)),
    (r"setp\.(\w+)\.(b?f16)x2", lambda what, type_: part(_setp_pair, what, type_)),
    (r"selp\." + ANY, lambda type_: part(_selp, type_)),
    (r"cvt\.([us]\d+)\.([us]\d+)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.(f32|f64)\.(b?f16|f32)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.rn\.(f32)\.(f64)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.rn\.(b?f16)\.(f32)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.rn\.(f32|f64)\.([us]\d+)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.rzi\.(s32|s64)\.(f32|f64)", lambda to, of: part(_cvt, to, of)),
    (r"cvt\.rn\.(b?f16)x2\.f32", lambda to: part(_cvt_pair, to)),
    (r"fma\.rn\." + FLOAT, lambda type_: part(_fma, type_)),
    (r"(add|sub|mul|div)\.rn\." + FLOAT, lambda kind, type_: part(_binary, values.BINARY[kind], type_, type_)),
    (r"(add|sub|div|rem|min|max)\." + INTEGER, lambda kind, type_: part(_binary, values.BINARY[kind], type_, type_)),
    (r"min\." + FLOAT, lambda type_: part(_binary, values.least, type_, type_)),
    (r"max\." + FLOAT, lambda type_: part(_binary, values.most, type_, type_)),
    (r"(and|or|xor)\." + BITS, lambda kind, type_: part(_binary, values.BINARY[kind], type_, type_)),
    (r"copysign\." + FLOAT, lambda type_: part(_binary, values.BINARY["copysign"], type_, type_)),
    (r"mul\.lo\." + INTEGER, lambda type_: part(_binary, values.BINARY["mul"], type_, type_)),
    (r"mul\.wide\.([us](?:16|32))", lambda type_: part(_multiply, type_, False)),
    (r"mad\.lo\." + INTEGER, lambda type_: part(_multiply_low, type_)),
    (r"mad\.wide\.([us](?:16|32))", lambda type_: part(_multiply, type_, True)),
    (r"div\.full\.(f32)", lambda type_: part(_binary, arithmetic.div_full, type_, type_)),
    (r"(ex2|rcp)\.approx\.ftz\.(f32)", lambda kind, type_: part(_unary, getattr(arithmetic, kind), type_)),
    (r"sh([lr])\.([bus](?:16|32|64))", lambda way, type_: part(_binary, values.shifted(way == "l"), type_, "u32")),
    (r"mov\." + ANY, lambda type_: part(_move, type_)),
    (r"(neg|abs)\.b?f16(x2)?", lambda kind, two: part(_unary, values.SIGNS[kind], "b32" if two else "b16")),
    (r"(neg|abs)\.(f32|f64|s16|s32|s64)", lambda kind, type_: part(_unary, values.UNARY[kind], type_)),
    (r"(not)\." + BITS, lambda kind, type_: part(_unary, values.UNARY[kind], type_)),
    (r"redux\.sync\.(add|min|max)\.([us]32)", lambda kind, type_: part(_reduce, values.REDUCTIONS[kind], type_)),
    (r"shfl\.sync\.bfly\.b32", lambda: _exchange),
    (r"bar\.sync", lambda: _barrier),
    (r"bfe\.([us](?:32|64))", lambda type_: part(_bfe, type_)),
    (r"prmt\.b32", lambda: _prmt),
    (r"popc\.b32", lambda: _popc),
]


def _memory_step(kind: str, space: str, count: str | None, type_: str) -> Step:
    return part(_load if kind == "ld" else _store, space, type_, int(count or 1))


@functools.cache
def find(name: str) -> Step:
    """What is bound to an instruction of that name."""
    for pattern, make in PATTERNS:
        if found := re.fullmatch(pattern, name):
            return make(*found.groups())
    raise NotImplementedError(name)
