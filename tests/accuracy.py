"""The worst error of the kernel, in ulp, with the instruction set that BINXENT_ISA names.

``python -m tests.accuracy`` prints, as JSON, one number for each dtype, kind of input, kind of target, weighting and
output. The tests run it once for each instruction set.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import numpy as np

from binxent import kernel
from tests.kernel_calls import compute
from tests.reference import DTYPES, error, expected

Array = np.ndarray[Any, Any]
WEIGHTINGS = ("plain", "incoming", "weight", "pos_weight", "both")
INCOMING = (3.0, 0.7, 1 / 16777213, 1024.0)


def logits(dtype: str, size: int, rng: np.random.Generator) -> Array:
    """−100 … 100, evenly and by magnitude, and as far as exp(−|x|) is a subnormal of the dtype."""
    end = {"float32": 104.0, "float64": 745.0}[dtype]
    smallest = -149 if dtype == "float32" else -1074
    around_zero = np.ldexp(1 + rng.random(size), rng.integers(smallest, 7, size))
    steps = np.arange(-150, 151) * (np.log(2) / 2)  # where exp's reduction changes sides
    parts = [
        rng.uniform(-100, 100, size),
        rng.uniform(-20, 20, size),
        np.minimum(around_zero, 100) * rng.choice((-1, 1), size),
        rng.uniform(85, end, size // 4) * rng.choice((-1, 1), size // 4),
        (steps[:, None] * (1 + np.arange(-8, 9) * 2.0**-22)).ravel(),
        [0.0, -0.0, 100.0, -100.0],
    ]
    return np.concatenate(parts).astype(DTYPES[dtype])


def probabilities(dtype: str, size: int, rng: np.random.Generator) -> Array:
    """0 … 1, evenly and by the distance from either end, subnormal ones too."""
    smallest = -149 if dtype == "float32" else -1074
    near_zero = np.ldexp(1 + rng.random(size), rng.integers(smallest, -1, size))
    near_one = 1 - np.ldexp(1 + rng.random(size), rng.integers(-54, -1, size))
    near_root = np.sqrt(0.5) * (1 + np.arange(-300, 300) * 2.0**-24)  # where log's reduction changes sides
    parts = [rng.random(size), near_zero, near_one, near_root, 1 - near_root, [0.0, 1.0, 0.5]]
    return np.clip(np.concatenate(parts).astype(DTYPES[dtype]), 0, 1)


def targets(kind: str, like: Array, rng: np.random.Generator) -> Array:
    if kind == "hard":
        return rng.integers(0, 2, like.shape).astype(like.dtype)
    if kind == "outside":
        return rng.normal(0, 3, like.shape).astype(like.dtype)
    near_ends = np.ldexp(1.0, -rng.integers(1, 30, like.shape))
    soft = np.where(rng.random(like.shape) < 0.5, rng.random(like.shape), near_ends)
    return np.where(rng.random(like.shape) < 0.5, soft, 1 - soft).astype(like.dtype)


def measure(size: int) -> dict[str, float]:
    worst = {}
    kinds = {"logits": ("hard", "soft", "outside"), "probabilities": ("hard", "soft")}
    for dtype, source in itertools.product(("float32", "float64"), kinds):
        for kind, weighting in itertools.product(kinds[source], WEIGHTINGS):
            rng = np.random.default_rng(2)
            # longdouble, the reference of float64, is slow.
            x = globals()[source](dtype, size if dtype == "float32" else size // 5, rng)
            y = targets(kind, x, rng)
            w = p = None
            if weighting in ("weight", "both"):
                w = rng.lognormal(0, 3, x.shape).astype(x.dtype)
            if weighting in ("pos_weight", "both"):
                p = rng.lognormal(0, 3, x.shape).astype(x.dtype)
            exact = expected(
                x,
                y,
                w,
                p,
                probabilities=source == "probabilities",
                wide=np.float64 if dtype == "float32" else np.longdouble,
            )
            loss, gradient = np.empty_like(x), np.empty_like(x)
            for incoming in INCOMING if weighting == "incoming" else (1.0,):
                compute(
                    x,
                    y,
                    *(() if w is None else (w,)),
                    pos_weight=p,
                    probabilities=source == "probabilities",
                    loss=loss,
                    gradient=gradient,
                    incoming=incoming,
                )
                off = error(gradient, exact.gradient * incoming, exact.larger_gradient * incoming, dtype)
                key = f"{dtype} {source} {kind} {weighting} gradient"
                worst[key] = max(worst.get(key, 0.0), float(off.max()))
                at = int(off.argmax())
                print(f"{key}: {off[at]:.2f} at x = {x[at]!r}, y = {y[at]!r}, incoming {incoming}", file=sys.stderr)
            off = error(loss, exact.loss, exact.larger_loss, dtype)
            worst[f"{dtype} {source} {kind} {weighting} loss"] = float(off.max())
            at = int(off.argmax())
            print(
                f"{dtype} {source} {kind} {weighting} loss: {off[at]:.2f} at x = {x[at]!r}, y = {y[at]!r}",
                file=sys.stderr,
            )
    return worst


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    json.dump({"instruction_set": kernel.instruction_set, "worst": measure(size)}, sys.stdout)
