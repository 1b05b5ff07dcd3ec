"""Measures the errors of one framework's losses, ours and its own, in ulp of the exact result; see accuracy.py.

The reference, the unit and the kinds of target are those of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.frameworks import Array, Evaluate, Framework, refusal
from benchmarks.results import Row
from tests.operands import targets
from tests.reference import DTYPES, PRECISION, Expected, expected
from tests.reference import error as error_in_ulp

KINDS = ("hard", "soft")
SIZE = 40_000  # elements of each region
MARGINS = range(-20, 100, 2)  # of the bins of the curve

# Ranges of |x| for logits, and of probabilities. In them no float32 result is subnormal, which some modes flush to 0.
LOGITS = {"near 0": (2.0**-40, 2.0**-4), "middle": (2.0**-4, 8.0), "tails": (8.0, 80.0)}
PROBABILITIES = {"near 0": (2.0**-40, 2.0**-4), "middle": (2.0**-4, 1 - 2.0**-4), "near 1": (2.0**-12, 2.0**-4)}


def inputs(region: str, probabilities: bool, dtype: str, rng: np.random.Generator) -> Array:
    low, high = (PROBABILITIES if probabilities else LOGITS)[region]
    if probabilities and dtype == "float16":
        low = max(low, 2.0**-13)  # the gradient, 1/q, overflows
    by_magnitude = region == "near 0" or (probabilities and region == "near 1")
    values = 2 ** rng.uniform(np.log2(low), np.log2(high), SIZE) if by_magnitude else rng.uniform(low, high, SIZE)
    if not probabilities:
        values *= rng.choice((-1, 1), SIZE)
        if region == "near 0":
            values[:64] = 0  # where both sides of the formula meet, and some derivatives are those of neither
    elif region == "near 1":
        values = 1 - values
    return values.astype(DTYPES[dtype])


def exact(x: Array, y: Array, probabilities: bool = False) -> Expected:
    """The exact results, in float64; for float64 in longdouble, which has 11 bits more on x86."""
    return expected(x, y, probabilities=probabilities, wide=np.longdouble if x.dtype == np.float64 else np.float64)


def errors(evaluate: Evaluate, x: Array, y: Array, probabilities: bool) -> dict[str, Array]:
    loss, gradient = evaluate(x, y, "none")
    truth = exact(x, y, probabilities)
    dtype = x.dtype.name
    return {
        "loss": error_in_ulp(loss, truth.loss, truth.larger_loss, dtype),
        "gradient": error_in_ulp(gradient, truth.gradient, truth.larger_gradient, dtype),
    }


def elements(evaluate: Evaluate, dtype: str, probabilities: bool) -> Iterator[Row]:
    """Yields the worst and the mean error in each region."""
    for region in PROBABILITIES if probabilities else LOGITS:
        for kind in KINDS:
            rng = np.random.default_rng(7)
            x = inputs(region, probabilities, dtype, rng)
            y = targets(kind, x, rng)
            for output, off in errors(evaluate, x, y, probabilities).items():
                at = int(off.argmax())
                yield {
                    "measured": output,
                    "region": region,
                    "target": kind,
                    "worst": float(off[at]),
                    "mean": float(off.mean()),
                    "worst_input": float(x[at]),
                    "worst_target": float(y[at]),
                }


def curve(evaluate: Evaluate) -> Iterator[Row]:
    """Yields the errors in float32 with hard targets, by how far the logit is on its target's side."""
    for margin in MARGINS:
        distance = np.linspace(margin, margin + 2, 1001, dtype=np.float32)
        x, y = np.concatenate([distance, -distance]), np.repeat(np.float32([1, 0]), len(distance))
        for output, off in errors(evaluate, x, y, False).items():
            yield {
                "measured": f"{output} curve",
                "region": str(margin + 1),
                "target": "hard",
                "worst": float(off.max()),
                "mean": float(off.mean()),
            }


def means(evaluate: Evaluate, number: int) -> Iterator[Row]:
    """Yields the error of a float32 mean: of a constant, the worst case of a running sum, and of normal logits."""
    rng = np.random.default_rng(7)
    period = 10**6
    for region in ("all 0", "normal"):
        deviation = np.float32(0 if region == "all 0" else 3)
        part = deviation * rng.standard_normal(period, np.float32)
        y = targets("hard", part, rng)
        truth = exact(part, y).loss.astype(np.longdouble).mean()
        loss, _ = evaluate(np.tile(part, number // period), np.tile(y, number // period), "mean")
        off = float(error_in_ulp(loss, truth, truth, "float32"))
        yield {"measured": f"mean of {number}", "region": region, "target": "hard", "worst": off, "mean": off}


def rows(evaluate: Evaluate, dtype: str, probabilities: bool, number: int) -> Iterator[Row]:
    yield from elements(evaluate, dtype, probabilities)
    if dtype == "float32" and not probabilities:
        yield from curve(evaluate)
        yield from means(evaluate, number)


def measure(framework: Framework, number: int) -> Iterator[list[Row]]:
    """Yields a list of rows for each loss, way and dtype; means are of ``number`` elements."""
    for probabilities in (False, True):
        for way, evaluate in framework.evaluations(probabilities).items():
            for dtype in PRECISION:
                common: dict[str, Any] = {
                    "loss": "probabilities" if probabilities else "logits",
                    "way": way,
                    "dtype": dtype,
                }
                if dtype not in framework.DTYPES:
                    yield []
                    continue
                try:
                    yield [{**common, **row} for row in rows(evaluate, dtype, probabilities, number)]
                except Exception as error:
                    yield [{**common, "error": refusal(error)}]
