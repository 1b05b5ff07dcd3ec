"""Each dtype, input and weighting: losses with their gradients, each times some factors, and second derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from binxent.numpy import grad_and_hess
from tests.digests.digest import digest
from tests.kernel_calls import compute
from tests.operands import SPECIAL
from tests.reference import DTYPES, Array

SIZE = 3 * 4096 * 16 + 4097  # over the serial limit, and no whole number of blocks, tiles or groups
FACTORS = (1.0, 0.7, 1 / SIZE, 65536.0)
FAMILY: dict[str, dict[str, Any]] = {
    "two gammas": {"gamma_positive": 1.0, "gamma_negative": 4.0},
    "margin": {"gamma_negative": 0.5, "margin": 0.05},
    "p_t": {"gamma": 2.0, "focal": "p_t", "alpha": 0.25},
}
CURVATURES: list[tuple[str, str, dict[str, Any]]] = [
    ("exact", "0", {"gamma": 0.0}),
    ("exact", "2", {"gamma": 2.0}),
    ("expected", "0.5", {"gamma": 0.5}),
    *((kind, name, options) for kind in ("exact", "expected") for name, options in FAMILY.items()),
]


class Operands(NamedTuple):
    x: Array
    y: Array
    weights: list[Array]
    pos_weight: Array | None


def logistic(x: Array) -> Array:
    """Nearly 1 / (1 + exp(−x)), by operations that every machine rounds alike. NumPy's exp is none of them."""
    size = np.fmin(np.abs(x) * 1.4426950408889634, 1100.0)
    whole = np.floor(size)
    tail = np.ldexp(1 - (size - whole) / 2, -1 - whole.astype(int))
    return np.where(np.isnan(x), x, np.where(x < 0, tail, 1 - tail))


def operands(dtype: str, source: str, weighting: str, rng: np.random.Generator) -> Operands:
    with np.errstate(all="ignore"):
        x = rng.normal(0, 30, SIZE)
        x[: len(SPECIAL)] = SPECIAL
        if source == "probabilities":
            x = logistic(x / 3)
        x = x.astype(DTYPES[dtype])
        y = np.where(rng.random(SIZE) < 0.5, rng.integers(0, 2, SIZE), rng.random(SIZE)).astype(DTYPES[dtype])
    weights, p = [], None
    if weighting == "weight":
        weights = [rng.lognormal(0, 2, SIZE).astype(DTYPES[dtype])]
    if weighting == "pos_weight":
        p = rng.lognormal(0, 2, SIZE).astype(DTYPES[dtype])
    if weighting == "many":
        weights = [rng.lognormal(0, 1, SIZE).astype(np.float32) for _ in range(4)]
    if weighting == "row":
        x, y = x[: SIZE - SIZE % 67].reshape(-1, 67), y[: SIZE - SIZE % 67].reshape(-1, 67)
        p = rng.lognormal(0, 2, 67).astype(np.float16)
    return Operands(x, y, weights, p)


def without_special(of: Operands) -> Operands:
    """The sum of what is left is a number."""
    rest = slice(len(SPECIAL), None)
    p = of.pos_weight if of.x.ndim > 1 or of.pos_weight is None else of.pos_weight[rest]
    return Operands(of.x[rest], of.y[rest], [w[rest] for w in of.weights], p)


def of_loss(of: Operands, source: str, factor: float) -> str:
    value, loss, gradient = np.empty(()), np.empty_like(of.x), np.empty_like(of.x)
    rest, probabilities = without_special(of), source == "probabilities"
    given: Any = {"pos_weight": of.pos_weight, "loss": loss, "gradient": gradient, "incoming": factor}
    compute(of.x, of.y, *of.weights, **given, probabilities=probabilities)
    given = {"pos_weight": rest.pos_weight, "value": value, "divisor": 7.0}
    compute(rest.x, rest.y, *rest.weights, **given, probabilities=probabilities)
    assert np.isfinite(value)
    return digest(value.reshape(1), loss, gradient)


def of_curvature(of: Operands, kind: str, options: dict[str, Any]) -> str:
    """With the first of the weights."""
    weight = of.weights[0] if of.weights else None
    return digest(*grad_and_hess(of.x, of.y, weight, of.pos_weight, hessian=kind, **options))


def digests() -> Iterator[tuple[str, str]]:
    rng = np.random.default_rng(5)
    weightings = ("plain", "weight", "pos_weight", "row", "many")
    for dtype, source, weighting in itertools.product(DTYPES, ("logits", "probabilities"), weightings):
        of = operands(dtype, source, weighting, rng)
        for factor in FACTORS:
            yield f"{dtype} {source} {weighting} {factor:g}", of_loss(of, source, factor)
        for kind, name, options in CURVATURES if source == "logits" else ():
            yield f"{dtype} {kind} hessian {weighting} {name}", of_curvature(of, kind, options)
