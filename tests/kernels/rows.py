"""The kernels that the contract is asked of, one row each, and how a test calls one.

A row knows how NumPy's arrays get to its device, and back. A kernel that cannot run here has no row: Triton's needs a
card, or TRITON_INTERPRET=1 in the environment, which has to be there before Triton is imported, or TRITON_RUNS_PTX=1,
by which ``conftest.py`` puts ``tests.kernels.ptx`` in a card's place.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from binxent.call import GIVEN, Call, Operands, plan
from binxent.formula import LOGITS, PROBABILITIES
from binxent.kernel import instruction_set
from binxent.kernels import Kernel, Outputs, native
from tests.layouts import LAYOUTS
from tests.reference import DTYPES, TOLERANCE

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    name: str
    kernel: Kernel
    put: Callable[[Array], Any]  # on its device, with the same strides
    get: Callable[[Any], Array]  # back; NumPy's array may share memory with it
    layouts: Sequence[str]  # of tests/layouts.py
    numbers_on_device: bool  # whether learnt options, a normalizer, a divisor and what comes in may lie there
    incoming_is_a_weight: bool  # if there is one for each element: then only the gradient may be asked for
    widening: frozenset[str]  # operands besides input and target that in float64 make the arithmetic float64
    hard: float  # ulp allowed with targets 0 and 1
    soft: float

    def tolerance(self, *, hard: bool = False, weights: int = 0, outside: bool = False, scaled: bool = False) -> float:
        """As ``tests.reference.tolerance``, from the bounds of this row."""
        more = (weights > 0) + 0.5 * max(0, weights - 2)
        return (self.hard if hard else self.soft) + more + outside + 1.5 * scaled


class Results(NamedTuple):
    elements: Array | None
    total: Array | None
    gradient: Array | None
    hessian: Array | None = None
    expected_hessian: Array | None = None


ALL = ("elements", "total", "gradient")  # what every kernel writes


def call_of(
    x: Array,
    target: Array,
    *,
    probabilities: bool = False,
    reduction: str = "mean",
    any_target: bool = False,
    **options: Any,
) -> Call:
    """``options`` are arrays and numbers, by the names of ``plan``; a normalizer too."""
    normalizer = options.pop("normalizer", None)
    shapes = {
        name: None if options.get(name) is None else options.pop(name).shape
        for name in ("weight", "sample_weight", "pos_weight", "mask", "neg_weight")
    }
    call = plan(
        PROBABILITIES if probabilities else LOGITS,
        reduction,
        (x.dtype.name, target.dtype.name),
        x.shape,
        target.shape,
        **shapes,
        **options,
        any_target=any_target,
    )
    return call if normalizer is None else call._replace(divisor=GIVEN)


def operands_of(row: Row, x: Array, target: Array, **options: Any) -> Operands:
    given = {name: options.get(name) for name in Operands._fields[2:]}
    if given["sample_weight"] is not None:
        given["sample_weight"] = given["sample_weight"].reshape((-1,) + (1,) * (x.ndim - 1))
    # An option that is a number is the call's; an array is an operand.
    arrays = {name: row.put(array) for name, array in given.items() if isinstance(array, np.ndarray)}
    return Operands(row.put(x), row.put(target), **arrays)


def compute(
    row: Row,
    x: Array,
    target: Array,
    *,
    outputs: Sequence[str] = ALL,
    lay: Callable[[Array], Array] = np.copy,
    in_place: bool = False,
    incoming: Any = 1.0,
    divisor: Any = None,
    reduction: str = "mean",
    probabilities: bool = False,
    any_target: bool = False,
    **options: Any,
) -> Results:
    """What the kernel writes; ``lay`` gives the outputs their layout."""
    numbers = {name: value for name, value in options.items() if not isinstance(value, np.ndarray)}
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
    learnt = {name: arrays[name] for name in ("label_smoothing", "gamma") if name in arrays}
    shaped = {name: value for name, value in arrays.items() if name not in learnt}
    call = call_of(
        x, target, probabilities=probabilities, reduction=reduction, any_target=any_target, **numbers, **shaped
    )
    operands = operands_of(row, x, target, **arrays)
    # Not a NaN, nor a 0: what is not written is seen.
    blank = {
        "elements": lambda: row.put(lay(np.full(x.shape, 77, DTYPES[call.dtype]))),
        "total": lambda: row.put(np.full((), 77, DTYPES[call.dtype])),
        "gradient": lambda: operands.input if in_place else row.put(lay(np.full(x.shape, 77, x.dtype))),
        "hessian": lambda: row.put(lay(np.full(x.shape, 77, x.dtype))),
        "expected_hessian": lambda: row.put(lay(np.full(x.shape, 77, x.dtype))),
    }
    made = Outputs(**{name: blank[name]() for name in outputs})
    sent = {
        name: row.put(value) if isinstance(value, np.ndarray) else value
        for name, value in (("incoming", incoming), ("divisor", divisor))
    }
    flags = row.kernel.compute(call, operands, made, **sent)
    assert isinstance(flags, int)
    return Results(*(None if output is None else row.get(output) for output in made))


class Described(tuple[Any, ...]):
    """An operand as the native kernel takes it, with the array whose memory it is."""

    array: Array


def _native() -> Row:
    def put(array: Array) -> Described:
        steps = zip(array.shape, array.strides, strict=True)
        spans = [(n - 1) * s for n, s in steps if array.size]
        before, after = -sum(s for s in spans if s < 0), sum(s for s in spans if s > 0) + array.itemsize
        start = array.ctypes.data - before
        memory = np.empty(64 + before + after, np.uint8)
        first = (start - memory.ctypes.data) % 64  # what is misaligned stays so
        memory[first : first + before + after] = np.frombuffer(ctypes.string_at(start, before + after), np.uint8)
        copy = np.ndarray(array.shape, array.dtype, memory, first + before, array.strides)
        described = Described((copy.ctypes.data, native.TAGS[copy.dtype.name], copy.shape, copy.strides))
        described.array = copy
        return described

    hard, soft = TOLERANCE[instruction_set]
    return Row(
        name="native",
        kernel=native,
        put=put,
        get=lambda operand: operand.array,
        layouts=tuple(LAYOUTS),
        numbers_on_device=False,
        incoming_is_a_weight=True,
        widening=frozenset(("mask",)),
        hard=hard,
        soft=soft,
    )


def _triton() -> Row:
    import torch

    from binxent.kernels import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def put(array: Array) -> Any:
        extent = 1 + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) // array.itemsize
        if not array.size:
            extent = 0
        strides = [s // array.itemsize for s in array.strides]
        flat = np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))
        raw = flat.view(np.uint16) if array.dtype == DTYPES["bfloat16"] else flat
        memory = torch.tensor(raw)
        if array.dtype == DTYPES["bfloat16"]:
            memory = memory.view(torch.bfloat16)
        return memory.to(device).as_strided(array.shape, strides)

    def get(tensor: Any) -> Array:
        tensor = tensor.cpu()
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.uint16).numpy().view(DTYPES["bfloat16"])
        return tensor.numpy()

    return Row(
        name="triton",
        kernel=triton,
        put=put,
        get=get,
        layouts=("transposed", "middle_first", "stepped"),
        numbers_on_device=True,
        incoming_is_a_weight=False,
        widening=frozenset(),
        hard=4.0,
        soft=5.0,
    )


def _has_triton() -> bool:
    if any(importlib.util.find_spec(name) is None for name in ("triton", "torch")):
        return False
    if "1" in (os.environ.get("TRITON_INTERPRET"), os.environ.get("TRITON_RUNS_PTX")):
        return True
    import torch

    return bool(torch.cuda.is_available())


ROWS: list[Row] = [_native(), *([_triton()] if _has_triton() else [])]
