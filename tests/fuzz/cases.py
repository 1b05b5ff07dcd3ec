"""Draws calls of the loss: any shape, layout, dtype and value, every option, and every way to write the gradient.

A case is made of two numbers, a seed and its place, and of nothing else: ``case(seed, number)`` is the same everywhere.
An option is a row of ``OPTIONS``: how often it is given, and what draws its value. A new option needs no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binxent.call import FLOATING
from tests.reference import DTYPES, INTEGER_TARGETS, PRECISION, Array

Shape = tuple[int, ...]
ALL_DTYPES = (*FLOATING, *INTEGER_TARGETS)
REDUCTIONS = ("mean", "sum", "none", "batchmean", "weighted_mean")
LONGER = (63, 64, 65, 500, 4095, 4096, 4097, 9000)  # about the kernel's blocks; more than 65535 go to several threads
MANY = (65_535, 65_536, 65_537, 70_001, 140_000)


@dataclass(frozen=True)
class Case:
    """One call. ``options`` holds what is given by keyword, and ``out`` how the gradient is written."""

    seed: int
    number: int
    input: Array
    target: Array
    probabilities: bool
    reduction: str
    options: dict[str, Any]
    out: str  # "new"; "in place"; "apart", of a layout of its own; "shared" with the target: the call is refused then
    incoming: float  # the gradient that comes in, where there is a backward

    def __str__(self) -> str:
        """What a reader needs to see of it."""

        def shown(value: Any) -> str:
            if not isinstance(value, np.ndarray):
                return repr(value)
            return f"{value.dtype.str if value.dtype.name not in DTYPES else value.dtype.name}{list(value.shape)}"

        given = {"input": self.input, "target": self.target, **self.options}
        text = ", ".join(f"{name}={shown(value)}" for name, value in given.items())
        kind = "probabilities" if self.probabilities else "logits"
        return f"{kind}, {self.reduction}, out {self.out}, incoming {self.incoming:g}: {text}"


@dataclass(frozen=True)
class Sizes:
    """How often a shape is longer than a few elements, and how often it has as many as several threads share."""

    many: float = 0.004
    longer: float = 0.05


ORDINARY = Sizes()


class Draw:
    """The random choices of one case."""

    def __init__(self, seed: int, number: int, sizes: Sizes) -> None:
        self.rng = np.random.default_rng([seed, number])
        self.sizes = sizes
        self.probabilities = self.chance(0.4)
        self.input_dtype = self.one_of(FLOATING)
        self.target_dtype = self.input_dtype if self.chance(0.4) else self.one_of(ALL_DTYPES)
        self.shape = self.any_shape()
        self.extreme = self.chance(0.25)  # weights of any size that their type holds
        self.special = self.chance(0.2)  # NaN and infinities among the numbers

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def any_shape(self) -> Shape:
        kind = self.rng.random()
        if kind < self.sizes.many:
            return (self.one_of(MANY),) if self.chance(0.5) else (self.one_of((257, 300)), self.one_of((256, 333)))
        if kind < self.sizes.longer:
            return (self.one_of(LONGER),) if self.chance(0.5) else (self.one_of((1, 2, 3, 65)), self.one_of(LONGER[:5]))
        dims = int(self.rng.integers(0, 7))
        longest = (1, 40, 12, 7, 5, 4, 3)[dims]
        small = self.rng.integers(1, longest + 1, dims)
        small[self.rng.random(dims) < 0.2] = 1
        small[self.rng.random(dims) < 0.04] = 0
        return tuple(small.tolist())

    def part_of_shape(self) -> Shape:
        """A shape that broadcasts to the input's."""
        axes = int(self.rng.integers(0, len(self.shape) + 1))
        own = self.shape[len(self.shape) - axes :]
        return tuple(n if self.chance(0.6) else 1 for n in own)


# Layouts


def laid_out(draw: Draw, flat: Callable[[int], Array], shape: Shape, *, own: bool = False) -> Array:
    """An array of that shape somewhere in memory. ``flat(n)`` gives n numbers; with ``own``, no two elements share any.

    The axes lie in any order, forwards or backwards, with gaps, or with steps of 0 and steps that overlap.
    """
    size = math.prod(shape)
    if size == 0 or not shape or draw.chance(0.5):
        return flat(size).reshape(shape)
    dtype = flat(0).dtype
    steps, reach = [0] * len(shape), 1
    for axis in draw.rng.permutation(len(shape)).tolist():
        gap = int(draw.one_of((1, 1, 1, 2, 3)))
        steps[axis] = reach * gap
        reach = steps[axis] * (shape[axis] - 1) + reach if shape[axis] > 1 else reach
        kind = 1.0 if own else draw.rng.random()
        if kind < 0.1:
            steps[axis] = 0
        elif kind < 0.15:
            steps[axis] = int(draw.rng.integers(1, 4))
        if draw.chance(0.25):
            steps[axis] = -steps[axis]
    extent = sum(abs(step) * (n - 1) for step, n in zip(steps, shape, strict=True)) + 1
    if extent > 4 * size + 1000:  # gaps in six dimensions
        return flat(size).reshape(shape)
    first = sum(-step * (n - 1) for step, n in zip(steps, shape, strict=True) if step < 0)
    strides = tuple(step * dtype.itemsize for step in steps)
    shift = int(draw.rng.integers(1, 8)) if draw.chance(0.15) else 0  # not aligned
    memory = np.empty(extent * dtype.itemsize + shift, np.uint8)
    memory[shift:] = flat(extent).view(np.uint8)
    return np.ndarray(shape, dtype, memory, shift + first * dtype.itemsize, strides)


def in_foreign_order(draw: Draw, array: Array) -> Array:
    """The same numbers with their bytes the other way round, now and then."""
    if array.dtype == DTYPES["bfloat16"] or array.dtype.itemsize == 1 or not draw.chance(0.1):
        return array
    return array.astype(array.dtype.newbyteorder(">"))


# Values


def put_special(draw: Draw, values: Array, special: tuple[float, ...]) -> None:
    if draw.special and values.size:
        places = draw.rng.random(values.size) < 0.1
        values[places] = draw.rng.choice(special, int(places.sum()))


def logits(draw: Draw, size: int) -> Array:
    rng = draw.rng
    spread = draw.one_of((0.01, 1.0, 5.0, 40.0))
    values = rng.normal(0, spread, size)
    kind = rng.random()
    if kind < 0.2:  # from the smallest numbers to the largest
        lowest, largest = PRECISION[draw.input_dtype].lowest, math.log2(PRECISION[draw.input_dtype].largest)
        values = np.ldexp(1 + rng.random(size), rng.integers(lowest, int(largest), size)) * rng.choice([-1, 1], size)
    elif kind < 0.4:  # where losses and gradients leave the range
        values = rng.choice([-1, 1], size) * rng.choice([87.0, 88.7, 95.0, 104.0, 117.0, 708.0, 745.2], size)
        values += rng.normal(0, 3, size)
    put_special(draw, values, (0.0, -0.0, np.inf, -np.inf, np.nan))
    return values


def probabilities(draw: Draw, size: int) -> Array:
    rng = draw.rng
    values = rng.random(size)
    if draw.chance(0.3):
        values = np.ldexp(1 + rng.random(size), rng.integers(PRECISION[draw.input_dtype].lowest, -1, size))
        values = np.where(rng.random(size) < 0.5, values, 1 - values)
    put_special(draw, values, (0.0, 1.0, -0.0))
    return values


def inputs(draw: Draw) -> Array:
    make = probabilities if draw.probabilities else logits
    outside = draw.probabilities and draw.chance(0.04)

    def flat(size: int) -> Array:
        values = make(draw, size)
        if outside and size:
            values[draw.rng.integers(size)] = draw.one_of((-1e-7, 1.001, np.nan, np.inf, -np.inf))
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(DTYPES[draw.input_dtype])

    return in_foreign_order(draw, laid_out(draw, flat, draw.shape, own=draw.chance(0.3)))


def targets(draw: Draw) -> Array:
    soft, wild = draw.chance(0.4), draw.chance(0.04)

    def flat(size: int) -> Array:
        values = draw.rng.random(size)
        if not soft or draw.target_dtype in INTEGER_TARGETS:
            values = np.rint(values)
        if wild and size and draw.target_dtype != "bool":
            values[draw.rng.integers(size)] = draw.one_of((2.0, 3.0, 100.0))
        if draw.target_dtype in INTEGER_TARGETS:
            return values.astype(draw.target_dtype)
        return values.astype(DTYPES[draw.target_dtype])

    return in_foreign_order(draw, laid_out(draw, flat, draw.shape))


def positive_numbers(draw: Draw, shape: Shape) -> Array:
    """Weights: of dtypes and sizes that have nothing to do with the input's."""
    dtype = draw.input_dtype if draw.chance(0.5) else draw.one_of(ALL_DTYPES)

    def flat(size: int) -> Array:
        if dtype in INTEGER_TARGETS:
            return draw.rng.integers(0, 2 if dtype == "bool" else 100, size).astype(dtype)
        values = draw.rng.lognormal(0, 1, size)
        if draw.extreme:
            largest = int(math.log2(PRECISION[dtype].largest))
            around = int(draw.rng.integers(PRECISION[dtype].lowest, largest))
            exponents = np.clip(around + draw.rng.integers(-3, 4, size), PRECISION[dtype].lowest, largest - 1)
            values = np.ldexp(1 + draw.rng.random(size) * 0.9, exponents)
        put_special(draw, values, (0.0, 1.0))
        return values.astype(DTYPES[dtype])

    return in_foreign_order(draw, laid_out(draw, flat, shape))


# Options


def mask(draw: Draw) -> Array:
    dtype = draw.one_of(("bool", "bool", *ALL_DTYPES))
    kept = draw.one_of((0.0, 0.2, 0.8, 1.0))

    def flat(size: int) -> Array:
        return (draw.rng.random(size) < kept).astype(DTYPES.get(dtype, dtype))

    return laid_out(draw, flat, draw.part_of_shape())


def ignore_index(draw: Draw) -> float:
    if draw.target_dtype in FLOATING and draw.chance(0.2):
        return float(np.nan)
    return int(draw.one_of((-100, -1, 0, 1, 255)))


@dataclass(frozen=True)
class Option:
    """How often an option is given, what draws its value, and whether it may stand beside what was drawn before."""

    name: str
    value: Callable[[Draw], Any]
    often: float = 0.2
    allowed: Callable[[Draw, str], bool] = field(default=lambda draw, reduction: True)


OPTIONS = (
    Option("weight", lambda draw: positive_numbers(draw, draw.part_of_shape()), 0.3),
    Option(
        "sample_weight",
        lambda draw: positive_numbers(draw, draw.shape[:1]),
        allowed=lambda draw, reduction: bool(draw.shape),
    ),
    Option("pos_weight", lambda draw: positive_numbers(draw, draw.part_of_shape()), 0.3),
    Option("neg_weight", lambda draw: positive_numbers(draw, draw.part_of_shape())),
    Option("alpha", lambda draw: draw.one_of((0.0, 0.25, 0.5, 1.0, float(draw.rng.random()))), 0.1),
    Option("mask", mask),
    Option("ignore_index", ignore_index),
    Option("label_smoothing", lambda draw: draw.one_of((0.1, 1e-6, 0.5, 1.0, float(draw.rng.random()))), 0.15),
    Option("gamma", lambda draw: draw.one_of((0.5, 1.0, 2.0, 3.7, 5.0, 5.5, 30.0, float(draw.rng.random() * 5))), 0.2),
    Option(
        "normalizer",
        lambda draw: draw.one_of((1, 7, 1000.0, 0, np.float32(3.5), np.array([12]))),
        0.1,
        lambda draw, reduction: reduction not in ("none", "sum"),
    ),
)


def hidden(draw: Draw, target: Array, index: float) -> Array:
    """The target with what is to be ignored in some places, where its dtype holds that."""
    if target.dtype.kind in "ui" and not np.iinfo(target.dtype).min <= index <= np.iinfo(target.dtype).max:
        return target
    values = np.array(target)
    with np.errstate(over="ignore", invalid="ignore"):
        values[draw.rng.random(values.shape) < 0.3] = index
    return values


def case(seed: int, number: int, sizes: Sizes = ORDINARY) -> Case:
    draw = Draw(seed, number, sizes)
    reduction = draw.one_of(REDUCTIONS if draw.shape else tuple(r for r in REDUCTIONS if r != "batchmean"))
    input, target = inputs(draw), targets(draw)
    options = {o.name: o.value(draw) for o in OPTIONS if draw.chance(o.often) and o.allowed(draw, reduction)}
    if "ignore_index" in options and (draw.target_dtype != "bool" or options["ignore_index"] in (0, 1)):
        target = hidden(draw, target, options["ignore_index"])
    out = draw.one_of(("new",) * 6 + ("in place", "in place", "apart", "shared"))
    incoming = 1.0 if draw.chance(0.7) else draw.one_of((3.0, 1024.0, -1.0, 0.0, 0.25))
    return Case(seed, number, input, target, draw.probabilities, reduction, options, out, incoming)


def place_for(case: Case) -> Array | None:
    """The array for the gradient, or None for a new one. It is made anew for each call, as it is written."""
    draw = Draw(case.seed, case.number, ORDINARY)
    if case.out == "new":
        return None
    if case.out == "in place":
        return case.input
    if case.out == "shared":
        return case.target
    filled = np.full(1, 7, case.input.dtype)
    return laid_out(draw, lambda size: np.repeat(filled, size), case.input.shape, own=True)
