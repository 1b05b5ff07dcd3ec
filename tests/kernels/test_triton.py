"""What only Triton's kernel has: ``remake``, offsets of 64 bits, what it reads, its compiled code."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from binxent.call import Operands
from binxent.kernels import Outputs
from binxent.kernels import triton as kernel
from binxent.kernels.triton import coefficients, launch, programs, views
from tests import processes
from tests.kernels.rows import ALL, ROWS, Array, Results, call_of, compute, operands_of
from tests.kernels.test_contract import SHAPE, assert_same, dtypes, some, sources, weights
from tests.reference import DTYPES, bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

(ROW,) = (row for row in ROWS if row.name == "triton")
nan, inf = np.nan, np.inf


def test_triton_is_imported_only_with_its_kernel() -> None:
    code = """
        import sys
        import binxent.torch, binxent.kernels, binxent.kernels.native
        print("binxent.kernels.triton" in sys.modules)
    """
    assert processes.python(code, TRITON_INTERPRET=None) == "False"


# remake


def remade(x: Array, y: Array, first: Any, then: Array, **options: Any) -> tuple[Array, Array]:
    """The gradient after ``remake``, and what it should be."""
    numbers = {k: v for k, v in options.items() if k in ("reduction", "probabilities")}
    call = call_of(x, y, **options)
    operands = operands_of(ROW, x, y, **{k: v for k, v in options.items() if k not in numbers})
    gradient = ROW.put(np.zeros_like(x))
    made_for = ROW.put(first) if isinstance(first, np.ndarray) else first
    kernel.compute(call, operands, Outputs(gradient=gradient), incoming=made_for)
    kernel.remake(call, operands, gradient, incoming=ROW.put(then), made_for=made_for)
    wanted = compute(ROW, x, y, outputs=("gradient",), incoming=then, **options).gradient
    assert wanted is not None
    return ROW.get(gradient), wanted


@dtypes
@sources
def test_remake(source: str, dtype: str) -> None:
    x, y = some(dtype, source=source)
    result = np.float64 if dtype == "float64" else np.float32
    options: dict[str, Any] = {"weight": weights((37,), dtype), "probabilities": source == "probabilities"}
    for first, then in ((1.0, 3.0), (np.array(2, result), 0.7), (1.0, nan), (1.0, inf), (np.array(nan, result), 1.0)):
        found, wanted = remade(x, y, first, np.array(then, result), **options)
        np.testing.assert_array_equal(bits(found), bits(wanted))
    mask = np.random.default_rng(4).random(SHAPE) < 0.5
    found, wanted = remade(x, y, 1.0, np.array(3, result), mask=mask, **options)
    np.testing.assert_array_equal(bits(found), bits(wanted))


def test_remake_writes_only_what_has_to_change() -> None:
    x, y = some("float32", (3, 2048))
    call = call_of(x, y, reduction="none")
    operands = operands_of(ROW, x, y)
    gradient = ROW.put(np.full_like(x, 77))
    for incoming in (np.float32(1), np.ones_like(x), np.broadcast_to(np.float32(1), x.shape)):
        kernel.remake(call, operands, gradient, incoming=ROW.put(np.asarray(incoming)))
        assert (ROW.get(gradient) == 77).all()
    # One element of the second block: that block.
    g = np.ones_like(x)
    g[1, 5] = 3
    kernel.remake(call, operands, gradient, incoming=ROW.put(g))
    found = ROW.get(gradient)
    assert (found[[0, 2]] == 77).all()
    wanted = compute(ROW, x, y, reduction="none", incoming=g).gradient
    np.testing.assert_array_equal(found[1], wanted[1])  # type: ignore[index]


# Where things lie


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_strides_beyond_two_to_the_31(dtype: str) -> None:
    """Elements, and bytes of fewer; the memory between the rows is never touched, so there is none."""
    step = 2**31 // DTYPES.get(dtype, np.dtype(dtype)).itemsize + 64 if dtype == "float32" else 2**31 + 64
    far = torch.empty(3 * step, dtype=getattr(torch, dtype))
    x, y = some("float32", (3, 64), target="int8")
    options: dict[str, Any] = {}
    call = call_of(x, y)
    operands = operands_of(ROW, x, y)
    name = "input" if dtype == "float32" else "target"
    there = far.as_strided((3, 64), (step, 1))
    there.copy_(getattr(operands, name))
    outputs = Outputs(*(torch.zeros(s) for s in ((3, 64), (), (3, 64))))
    kernel.compute(call, operands._replace(**{name: there}), outputs)
    assert_same(Results(*map(ROW.get, outputs[: len(ALL)])), compute(ROW, x, y, **options))
    if dtype == "float32":  # in place there
        kernel.compute(call, operands._replace(input=there), Outputs(gradient=there))
        np.testing.assert_array_equal(ROW.get(there.clone()), ROW.get(outputs.gradient))


@triton.jit
def _find(view, sizes, first, found, BLOCK: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The places, in bytes from the view's pointer, of the block that begins with element ``first``."""
    place = programs.places(view, sizes, first.to(tl.int64), BLOCK, WIDE).to(tl.int64) - view.pointer.to(tl.int64)
    tl.store(found + tl.arange(0, BLOCK), place)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((2**33,), (3,)),
        ((2**20, 2**13), (2**13 + 7, 1)),  # wide: only offsets
        ((2**13, 2**20), (1, 2**13)),
        ((5, 2**32), (1, 5)),  # and sizes
        ((3, 2**31 + 11, 2), (2**33, 2, 1)),
        ((7, 2**15, 2**16), (1, 7, 0)),
    ],
)
def test_places_beyond_two_to_the_31(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Where an element lies, asked of single blocks: all of them would take hours."""
    # The stride of the other one keeps the axes apart.
    other = tuple(17 * (k + 1) for k in range(len(shape)))
    layout = views.layout(shape, ((shape, strides, 1), (shape, other, 1)), 64)
    pointer = torch.zeros(1, dtype=torch.int8)
    size = int(np.prod(shape))
    for first in (0, 64, 2**31 - 32, 2**32 + 64, size - 64):
        if first > size - 64:
            continue
        found = torch.zeros(64, dtype=torch.int64)
        view = views.View(pointer, layout.strides[0])
        launch.launch(_find, 1, found.device, view, layout.sizes, first, found, 64, layout.wide)
        index = np.unravel_index(np.arange(first, first + 64), shape)
        wanted = sum(i.astype(np.int64) * s for i, s in zip(index, strides, strict=True))
        np.testing.assert_array_equal(found.numpy(), wanted)


def test_axes_are_merged() -> None:
    shape = (2, 3, 4, 5)
    packed, column = (60, 20, 5, 1), ((3, 1, 1), (1, 1, 1))
    assert views.layout(shape, ((shape, packed, 4),), 64) == ((), ((1,),), 0)
    assert views.layout(shape, ((shape, packed, 4), (*column, 4)), 64) == ((20, 3), ((1, 20, 60), (0, 1, 0)), 0)
    assert views.layout(shape, (((), (), 4),), 64).strides == ((),)
    assert views.layout((1, 7, 1), (((1, 7, 1), (99, 2, 55), 4),), 64) == ((), ((2,),), 0)


# What it reads


def test_reads() -> None:
    x, y = torch.zeros(4), torch.zeros(4, dtype=torch.int8)
    assert kernel.reads(Operands(x, y))
    assert kernel.reads(Operands(torch.nn.Parameter(x), y, gamma=torch.tensor(2.0)))
    for dtype, target in itertools.product(launch.FLOATING, launch.DTYPES):
        assert kernel.reads(Operands(x.to(dtype), y.to(target)))

    class Mine(torch.Tensor):
        pass

    unreadable = {
        "an integer input": y,
        "a complex one": x.to(torch.complex64),
        "unsigned": y.to(torch.uint16),
        "a subclass": x.as_subclass(Mine),
        "sparse": x.to_sparse(),
        "negated": torch._neg_view(x),
        "zeros": torch._efficientzerotensor(4),
        "another device": x.to("meta"),
        "a list": [0.0],
        "a number": 1.0,
    }
    for what, tensor in unreadable.items():
        assert not kernel.reads(Operands(tensor, y)), what
        if what != "an integer input":
            assert not kernel.reads(Operands(x, tensor)), what
            assert not kernel.reads(Operands(x, y, weight=tensor)), what
    seen = []
    torch.func.vmap(lambda t: seen.append(kernel.reads(Operands(t, y))) or t)(torch.zeros(2, 4))
    torch.func.grad(lambda t: seen.append(kernel.reads(Operands(t, y))) or t.sum())(x)
    assert seen == [False, False]


# Numbers and coefficients


def test_the_host_splits_a_factor_as_the_device_does() -> None:
    x, y = some("float32", (64,))
    for value in (1.0, 3.0, 2.0**-61, 1e-30, 1e-38, 2.0**70, -1e30, inf, 0.0, 1e-44):
        for is_q in (False, True):
            options: dict[str, Any] = {"reduction": "sum", "probabilities": is_q}
            q = np.abs(np.tanh(x)) if is_q else x
            here = compute(ROW, q, y, incoming=float(np.float32(value)), **options)
            assert_same(compute(ROW, q, y, incoming=np.array(value, np.float32), **options), here)


def test_the_bits_of_zeros_and_numbers() -> None:
    """In both orders, since numbers are remembered, and 0 is equal to −0."""
    numbers = (0.0, -0.0, 0.0, 1.5, -1.5, 1e-46, -1e-46, 1e39, -inf)
    for double, dtype in ((False, np.float32), (True, np.float64)):
        with np.errstate(over="ignore"):
            wanted = np.array(numbers, np.float64).astype(dtype).view("int64" if double else "int32")
        assert [launch.bits(number, double) for number in numbers] == wanted.tolist()


def test_coefficients_are_those_of_the_native_kernel() -> None:
    (header,) = (Path(__file__).parents[2] / "native").rglob("coefficients.h")
    for kind, name in (("float", "SINGLE"), ("double", "DOUBLE")):
        part = header.read_text().split(f"struct Coefficients<{kind}>")[1].split("\n};")[0]
        for what, numbers in re.findall(r"static constexpr \w+ (\w+)\[\] = \{(.*)\};", part):
            given = tuple(float.fromhex(number.rstrip("f")) for number in numbers.split(", "))
            assert getattr(coefficients, f"{what.upper()}_{name}") == given


# The code that a card would run; no card is needed to compile it.


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("triton"))


def compiled(cache: str, *arguments: str) -> str:
    return processes.run_module(
        "tests.kernels.compiled", *arguments, TRITON_INTERPRET=None, TRITON_CACHE_DIR=cache, timeout=600
    )


def test_every_program_compiles(cache: str) -> None:
    assert int(compiled(cache, "everything")) > 30


# An H100 copies 3.0e12 bytes a second, and issues 29.6e12 instructions of threads (132 multiprocessors of 4 schedulers,
# 32 threads each, at 1.755 GHz): with more than this for each byte, arithmetic takes longer than memory.
ISSUED_PER_BYTE = 9.8


def test_compiled_code(cache: str) -> None:
    """Loads of 16 bytes (8 of a mask's), no spilled register, float64 for sums alone, no float that is added
    atomically, and fewer instructions than the memory leaves time for."""
    moved = {
        "float32:plain": 12,
        "float32:pos_weight": 12,
        "float32:mask": 13,
        "bfloat16:plain": 6,
        "bfloat16:pos_weight": 6,
        "bfloat16:mask": 7,
        "bfloat16:plain:bool": 5,
    }
    lines = [json.loads(line) for line in compiled(cache, *moved).splitlines()]
    assert [line.pop("case") for line in lines] == list(moved)
    for line, size in zip(lines, moved.values(), strict=True):
        assert line.pop("wide loads") >= 3
        assert 10 < line.pop("instructions of an element") < ISSUED_PER_BYTE * size
        assert line == dict.fromkeys(("narrow loads", "float atomics", "spilled", "float64 of a gradient alone"), 0)
