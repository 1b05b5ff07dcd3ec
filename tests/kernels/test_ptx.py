"""The machine that stands for a card: it counts as PTX does, and finds what would go wrong on a card."""

from __future__ import annotations

import functools
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from binxent.kernels.triton import launch, launcher
from tests import processes
from tests.kernels.bits import digests
from tests.kernels.ptx import arithmetic, code, instructions, values
from tests.kernels.ptx.driver import Driver
from tests.kernels.ptx.memory import CardError, Epoch, Memory, Span
from tests.kernels.rows import ROWS
from tests.kernels.rows import compute as computed
from tests.kernels.test_contract import assert_same, some

(ROW,) = (row for row in ROWS if row.name == "triton")
CPU = torch.device("cpu")


@pytest.fixture
def driver() -> Driver:
    return launch.launch.__self__  # type: ignore[attr-defined, no-any-return]


# Arithmetic


def numbers(kind: type[np.floating[Any]], count: int, seed: int) -> Any:
    """Of all sizes and signs, subnormal ones among them."""
    rng = np.random.default_rng(seed)
    bits = 8 * np.dtype(kind).itemsize
    raw = rng.integers(0, 2**bits, count, np.uint64).astype(f"uint{bits}").view(kind)
    near = rng.normal(0, 1, count).astype(kind)
    return np.where(np.isfinite(raw) & (rng.random(count) < 0.5), raw, near)


def nearest(exact: Fraction, kind: type[np.floating[Any]], guess: float) -> float:
    """The number of that kind that is nearest to the exact one, of those about a guess; ties to even."""
    here = kind(guess)
    around = [np.nextafter(here, kind(-np.inf)), here, np.nextafter(here, kind(np.inf))]
    finite = [number for number in around if np.isfinite(number)]
    return float(min(finite, key=lambda n: (abs(Fraction(float(n)) - exact), int(n.view(f"u{n.itemsize}")) & 1)))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fma_rounds_once(kind: Any) -> None:
    a, b, c = (numbers(kind, 4000, seed) for seed in (1, 2, 3))
    with np.errstate(all="ignore"):
        c[::3] = -(a * b)[::3]  # what is left is the rounding of the product
        c[1::3] *= 1 + np.finfo(kind).eps
        found = arithmetic.fma(a, b, np.where(np.isfinite(c), c, 1))
    for one, other, more, result in zip(a, b, np.where(np.isfinite(c), c, 1), found, strict=True):
        exact = Fraction(float(one)) * Fraction(float(other)) + Fraction(float(more))
        if np.isfinite(result):
            assert float(result) == nearest(exact, kind, float(result))


def test_what_is_approximate_is_wrong_on_purpose() -> None:
    x = np.linspace(-80, 80, 10_001).astype(np.float32)
    for found, exact in (
        (arithmetic.ex2(x), np.exp2(x.astype(np.float64))),
        (arithmetic.rcp(x[x > 0]), 1 / x[x > 0].astype(np.float64)),
        (arithmetic.div_full(x, x + np.float32(81)), x / (x + np.float32(81)).astype(np.float64)),
    ):
        off = np.abs(found / np.where(exact == 0, 1, exact) - (exact != 0))
        assert 2.0**-22.5 < off.max() <= 2.0**-22
    np.testing.assert_array_equal(arithmetic.ex2(x), arithmetic.ex2(x.copy()))


def test_conversions() -> None:
    raw = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    wide = arithmetic.from_bfloat16(raw)
    same = wide == wide
    np.testing.assert_array_equal(arithmetic.to_bfloat16(wide)[same], raw[same])
    between = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 2.0**-134, 3.4e38, np.nan], np.float32)
    assert arithmetic.to_bfloat16(between).tolist() == [0x3F80, 0x3F82, 0, 0x7F80, 0x7FFF]
    far = np.array([-1.9, 3e9, -np.inf, np.nan], np.float32)
    assert arithmetic.to_integer(far, 32).tolist() == [-1, 2**31 - 1, -(2**31), 0]


@pytest.mark.parametrize(
    ("function", "wanted"), [(values.least, [-0.0, -0.0, 2, 1, np.nan]), (values.most, [0.0, 0.0, 2, 1, np.nan])]
)
def test_the_least_and_the_most(function: Any, wanted: list[float]) -> None:
    a = np.array([0.0, -0.0, np.nan, 1, np.nan], np.float32)
    b = np.array([-0.0, 0.0, 2, np.nan, np.nan], np.float32)
    found = function(a, b)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found[:2]), np.signbit(wanted[:2]))


def test_what_is_not_known_is_refused() -> None:
    for name in ("bar.warp.sync", "mul.hi.s32", "add.rn.ftz.f32", "cvt.rni.f32.f32", "atom.global.gpu.relaxed.add.u32"):
        with pytest.raises(NotImplementedError):
            instructions.find(name)


def test_every_line_is_read() -> None:
    with pytest.raises(SyntaxError):
        code.read(".entry k(\n)\n.reqntid 32\n{\n\t?? r1;\n}\n")


# Faults


@triton.jit
def _shift(x, far, BLOCK: tl.constexpr, BARRIER: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, BLOCK)
    tl.store(x + place, place.to(tl.float32))
    if BARRIER:
        tl.debug_barrier()
    tl.store(far + place, tl.load(x + BLOCK - 1 - place))


@triton.jit
def _read_by_all(x, far, BLOCK: tl.constexpr, WRITER: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, BLOCK)
    tl.store(far + place, tl.load(x + place * 0))
    tl.store(x + place * 0, place.to(tl.float32), mask=place == WRITER)


@triton.jit
def _own(x, BLOCKS_OF_ONE: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(x + tl.program_id(0) // BLOCKS_OF_ONE, tl.program_id(0).to(tl.float32))


def test_a_race_between_threads() -> None:
    x, far = torch.zeros(256), torch.zeros(256)
    launch.launch(_shift, 1, CPU, x, far, 256, True)
    assert far.tolist() == list(range(256))[::-1]
    with pytest.raises(CardError, match=r"thread \d+ reads what another wrote"):
        launch.launch(_shift, 1, CPU, x, far, 256, False)


@pytest.mark.parametrize("writer", [0, 255])
def test_a_write_of_what_all_have_read(writer: int) -> None:
    with pytest.raises(CardError, match="writes what another has read"):
        launch.launch(_read_by_all, 1, CPU, torch.zeros(256), torch.zeros(256), 256, writer)


def test_a_race_between_blocks() -> None:
    launch.launch(_own, 2, CPU, torch.zeros(8), 1)
    with pytest.raises(CardError, match="what another block has touched"):
        launch.launch(_own, 2, CPU, torch.zeros(8), 2)


def test_an_address_outside() -> None:
    with pytest.raises(CardError, match=r"outside the operands: st\.global"):
        launch.launch(_shift, 1, CPU, torch.zeros(255), torch.zeros(256), 256, True)


def test_an_address_that_is_not_aligned() -> None:
    numbers = np.arange(8, dtype=np.float32)
    start = numbers.ctypes.data
    memory = Memory([Span.at(start, numbers.nbytes)], Epoch())
    thread = np.array([0])
    assert memory.load(np.array([start + 4]), thread, 4, 4).view(np.float32)[0] == 1
    with pytest.raises(CardError, match="no multiple of 4"):
        memory.load(np.array([start + 2]), thread, 4, 4)


# Launches


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_order_of_the_blocks_does_not_matter(driver: Driver, dtype: str) -> None:
    x, y = some(dtype, (5, 9000))
    wanted = computed(ROW, x, y)
    driver.backwards = True
    try:
        assert_same(computed(ROW, x, y), wanted)
    finally:
        driver.backwards = False


def test_a_compiled_kernel_is_launched_directly(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second call on, with other tensors and other numbers, Triton is not asked again."""
    assert launcher._IS_KNOWN
    x, y = some("float32", (3, 1024))
    (wanted, *_) = [computed(ROW, x, y, outputs=("gradient",), divisor=divisor) for divisor in (3.0, 7.0)]
    refuse = functools.partial(pytest.fail, "Triton was asked")
    monkeypatch.setattr(triton.JITFunction, "run", lambda *_, **__: refuse())
    before = driver.launches
    for _ in range(2):
        assert_same(computed(ROW, x, y, outputs=("gradient",), divisor=3.0), wanted)
    computed(ROW, x, y, outputs=("gradient",), divisor=5.0)  # as no launch before, but for its type
    assert driver.launches == before + 3


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9), reason="an older interpreter has no fused multiply-add"
)
def test_the_interpreter_has_the_bits_of_what_is_compiled() -> None:
    """In float32 and float64, also where a card would approximate: a step of long division takes it back."""
    interpreted = processes.run_module("tests.kernels.bits", TRITON_INTERPRET="1", TRITON_RUNS_PTX=None)
    assert digests() == json.loads(interpreted)
