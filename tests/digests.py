"""One digest of the kernel's raw bits for each dtype, input, weighting and reduction.

``python -m tests.digests`` prints them as JSON; the tests compare what different instruction sets print.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys

import numpy as np

from binxent import kernel
from binxent.numpy import grad_and_hess
from tests.kernel_calls import Array, compute
from tests.reference import DTYPES, bits

SIZE = 3 * 4096 * 16 + 4097  # over the serial limit, and no whole number of blocks, tiles or groups
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, -3e38, 88.8, -104.2, 65504.0, 6e-8]
FAMILY = {
    "two gammas": {"gamma_positive": 1.0, "gamma_negative": 4.0},
    "margin": {"gamma_negative": 0.5, "margin": 0.05},
    "p_t": {"gamma": 2.0, "focal": "p_t", "alpha": 0.25},
}


def logistic(x: Array) -> Array:
    """Nearly 1 / (1 + exp(−x)), by operations that every machine rounds alike. NumPy's exp is none of them."""
    size = np.fmin(np.abs(x) * 1.4426950408889634, 1100.0)
    whole = np.floor(size)
    tail = np.ldexp(1 - (size - whole) / 2, -1 - whole.astype(int))
    return np.where(np.isnan(x), x, np.where(x < 0, tail, 1 - tail))


def digests() -> dict[str, str]:
    rng = np.random.default_rng(5)
    found = {}
    for dtype, source, weighting in itertools.product(
        DTYPES, ("logits", "probabilities"), ("plain", "weight", "pos_weight", "row", "many")
    ):
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
        for factor in (1.0, 0.7, 1 / SIZE, 65536.0):
            value, loss, gradient = np.empty(()), np.empty_like(x), np.empty_like(x)
            compute(
                x,
                y,
                *weights,
                pos_weight=p,
                probabilities=source == "probabilities",
                loss=loss,
                gradient=gradient,
                incoming=factor,
            )
            rest = slice(len(SPECIAL), None)  # whose sum is a number
            compute(
                x[rest],
                y[rest],
                *(w[rest] for w in weights),
                pos_weight=p if p is None or weighting == "row" else p[rest],
                probabilities=source == "probabilities",
                value=value,
                divisor=7.0,
            )
            assert np.isfinite(value)
            joined = b"".join(bits(a).tobytes() for a in (value.reshape(1), loss, gradient))
            found[f"{dtype} {source} {weighting} {factor:g}"] = hashlib.sha256(joined).hexdigest()
        for kind, gamma in (("exact", 0.0), ("exact", 2.0), ("expected", 0.5)) if source == "logits" else ():
            weight = weights[0] if weights else None
            made = grad_and_hess(x, y, weight, p, gamma=gamma, hessian=kind)
            joined = b"".join(bits(a).tobytes() for a in made)
            found[f"{dtype} {kind} hessian {weighting} {gamma:g}"] = hashlib.sha256(joined).hexdigest()
        for kind in ("exact", "expected") if source == "logits" else ():
            for name, family in FAMILY.items():
                made = grad_and_hess(x, y, weight, p, hessian=kind, **family)
                joined = b"".join(bits(a).tobytes() for a in made)
                found[f"{dtype} {kind} hessian {weighting} {name}"] = hashlib.sha256(joined).hexdigest()
    return found


if __name__ == "__main__":
    json.dump({"instruction_set": kernel.instruction_set, "digests": digests()}, sys.stdout)
