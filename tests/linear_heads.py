"""A linear head and its loss in float64: what the tests of every face's head compare with, and what they are given."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binxent import definition
from binxent.call import Operands, plan
from binxent.formula import LOGITS
from binxent.numpy.arrays import Arrays

Array = np.ndarray[Any, Any]
REDUCTIONS = ("mean", "sum", "batchmean", "weighted_mean")
GRADIENTS = ("input", "linear_weight", "linear_bias")
BIASES = (None, "for each label", "one number")

# Broadcasting in each way that two axes allow.
WEIGHTS = {"[C]": (1, 0), "[N, 1]": (0, 1), "[N, C]": (0, 0), "()": ()}


@dataclass
class Case:
    input: Array
    linear_weight: Array
    target: Array
    linear_bias: Array | None = None
    arrays: dict[str, Array] = field(default_factory=dict)  # weight, pos_weight, sample_weight, mask
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def rest(self) -> dict[str, Any]:
        return {**self.arrays, **self.numbers}


def case(
    rows: int = 7, labels: int = 23, features: int = 5, bias: str | None = None, *, seed: int = 0, **options: Any
) -> Case:
    """Numbers in float64. An option is a number, or for an array the key of how it broadcasts, in ``WEIGHTS``."""
    random = np.random.default_rng(seed)
    target = (random.random((rows, labels)) < 0.3).astype(np.float64)
    if "ignore_index" in options:
        target[random.random((rows, labels)) < 0.2] = options["ignore_index"]
    biases = {"for each label": (labels,), "one number": ()}
    found = Case(
        random.standard_normal((rows, features)),
        random.standard_normal((labels, features)),
        target,
        None if bias is None else random.standard_normal(biases[bias]),
    )
    for name, option in options.items():
        if name == "sample_weight":
            found.arrays[name] = random.random(rows) + 0.5
        elif name in ("weight", "pos_weight", "mask"):
            shape = {"[C]": (labels,), "[N, 1]": (rows, 1), "[N, C]": (rows, labels), "()": ()}[option]
            found.arrays[name] = random.random(shape) < 0.7 if name == "mask" else random.random(shape) + 0.5
        else:
            found.numbers[name] = option
    return found


def expected(given: Case, **more: Any) -> tuple[float, dict[str, Array]]:
    """The loss of all logits at once, and its gradients, in float64."""
    value, slope = of_logits(given, **more)
    return value, products(given, slope, np.asarray)


def sizes(given: Case, **more: Any) -> dict[str, float]:
    """What a rounding error of each gradient is relative to: its largest sum, added without signs. The gradient to a
    logit is itself as uncertain as the logit, which matters where smoothing brings it near 0."""
    step = 1e-3
    _, slope = of_logits(given, **more)
    _, moved = of_logits(given, shift=step, **more)
    summed = products(given, np.abs(slope) + np.abs(moved - slope) / step, np.abs)
    return {name: float(np.max(array, initial=0)) for name, array in summed.items()}


def products(given: Case, slope: Array, of: Callable[[Array], Array]) -> dict[str, Array]:
    x, w, slope = (of(array.astype(np.float64)) for array in (given.input, given.linear_weight, slope))
    found = {"input": slope @ w, "linear_weight": slope.T @ x}
    if given.linear_bias is not None:
        found["linear_bias"] = slope.sum(0) if given.linear_bias.ndim else slope.sum()
    return found


def of_logits(given: Case, *, shift: float = 0, **more: Any) -> tuple[float, Array]:
    """The loss, and its gradient to the logits; these may be shifted, by a share of what they are sums of."""
    options = {**given.numbers, **more}
    normalizer = options.pop("normalizer", None)
    reduction = options.pop("reduction", "mean")
    bias = np.zeros(()) if given.linear_bias is None else given.linear_bias.astype(np.float64)
    x, w = given.input.astype(np.float64), given.linear_weight.astype(np.float64).T
    logits = x @ w + bias + shift * (np.abs(x) @ np.abs(w) + np.abs(bias))
    arrays = dict(given.arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    call = plan(LOGITS, reduction, ("float64", "float64"), logits.shape, given.target.shape, **shapes, **options)
    if normalizer is not None:
        call = call._replace(divisor=normalizer)
    if "sample_weight" in arrays:
        arrays["sample_weight"] = arrays["sample_weight"].reshape(-1, 1)
    operands, xp = Operands(logits, given.target, **arrays), Arrays()
    slope = definition.gradient(
        xp, call, operands, definition.prepare(xp, call, operands), "input", "float64", np.float64(1)
    )
    return float(definition.loss(xp, call, operands)), slope


# Every option alone, and in pairs.
ALONE: dict[str, dict[str, Any]] = {
    "weight of labels": {"weight": "[C]"},
    "weight of elements": {"weight": "[N, C]"},
    "one weight": {"weight": "()"},
    "pos_weight": {"pos_weight": "[C]"},
    "pos_weight of rows": {"pos_weight": "[N, 1]"},
    "sample_weight": {"sample_weight": True},
    "mask of elements": {"mask": "[N, C]"},
    "mask of rows": {"mask": "[N, 1]"},
    "mask of labels": {"mask": "[C]"},
    "ignore_index": {"ignore_index": -100},
    "label_smoothing": {"label_smoothing": 0.1},
    "gamma": {"gamma": 2.0},
}
OPTIONS = {"no option": {}, **ALONE}
OPTIONS |= {
    f"{one} and {other}": {**ALONE[one], **ALONE[other]}
    for one, other in itertools.combinations(ALONE, 2)
    if not ALONE[one].keys() & ALONE[other].keys()
}


# Sparse targets of the same case


def lists(given: Case) -> list[list[int]]:
    """The labels that are 1, for each row."""
    return [np.flatnonzero(row == 1).tolist() for row in given.target]


class Csr:
    """What the faces know SciPy's matrices by."""

    format = "csr"

    def __init__(self, dense: Array) -> None:
        row, self.indices = np.nonzero(dense)
        self.indptr, self.data = np.searchsorted(row, np.arange(len(dense) + 1)), dense[row, self.indices]
        self.shape, self.nnz = dense.shape, len(row)

    def tocsr(self) -> Csr:
        return self
