"""Makes logits, probabilities and targets from end to end of their range, in float32 and float64.

Every processor makes the same bits. NumPy's exp and log are not used: their last bit differs between processors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Logits at which some type or some step of the arithmetic has its limit.
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, -3e38, 88.8, -104.2, 65504.0, 6e-8]


def logits(dtype: str, size: int, rng: np.random.Generator) -> Array:
    """−100 … 100, evenly and by magnitude, and as far as exp(−|x|) is a subnormal of the dtype."""
    end = {"float32": 104.0, "float64": 745.0}[dtype]
    smallest = -149 if dtype == "float32" else -1074
    around_zero = np.ldexp(1 + rng.random(size), rng.integers(smallest, 7, size))
    steps = np.arange(-150, 151) * (math.log(2) / 2)  # where exp's reduction changes sides
    parts = [
        rng.uniform(-100, 100, size),
        rng.uniform(-20, 20, size),
        np.minimum(around_zero, 100) * rng.choice((-1, 1), size),
        rng.uniform(85, end, size // 4) * rng.choice((-1, 1), size // 4),
        (steps[:, None] * (1 + np.arange(-8, 9) * 2.0**-22)).ravel(),
        [0.0, -0.0, 100.0, -100.0],
    ]
    return np.concatenate(parts).astype(dtype)


def probabilities(dtype: str, size: int, rng: np.random.Generator) -> Array:
    """0 … 1, evenly and by the distance from either end, subnormal ones too."""
    smallest = -149 if dtype == "float32" else -1074
    near_zero = np.ldexp(1 + rng.random(size), rng.integers(smallest, -1, size))
    near_one = 1 - np.ldexp(1 + rng.random(size), rng.integers(-54, -1, size))
    near_root = np.sqrt(0.5) * (1 + np.arange(-300, 300) * 2.0**-24)  # where log's reduction changes sides
    parts = [rng.random(size), near_zero, near_one, near_root, 1 - near_root, [0.0, 1.0, 0.5]]
    return np.clip(np.concatenate(parts).astype(dtype), 0, 1)


SOURCES = {"logits": logits, "probabilities": probabilities}


def from_end_to_end(source: str, size: int, rng: np.random.Generator) -> Array:
    """In float32, with more logits where most of them are."""
    x = SOURCES[source]("float32", size, rng)
    return np.concatenate([x, rng.normal(0, 3, size).astype(np.float32)]) if source == "logits" else x


def targets(kind: str, like: Array, rng: np.random.Generator) -> Array:
    if kind == "hard":
        return rng.integers(0, 2, like.shape).astype(like.dtype)
    if kind == "outside":
        return rng.normal(0, 3, like.shape).astype(like.dtype)
    near_ends = np.ldexp(1.0, -rng.integers(1, 30, like.shape))
    soft = np.where(rng.random(like.shape) < 0.5, rng.random(like.shape), near_ends)
    return np.where(rng.random(like.shape) < 0.5, soft, 1 - soft).astype(like.dtype)
