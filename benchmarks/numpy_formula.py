"""The README's first figure: value and gradient, by the formula in plain NumPy and by the kernel.

``python -m benchmarks.numpy_formula``. Each result is allocated afresh, as in training.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import facts
from benchmarks.timing import in_turn
from binxent.numpy import value_and_grad

SHAPE = (4096, 4096)
ROUNDS = 25

Array = np.ndarray[Any, Any]


def formula(x: Array, y: Array) -> tuple[Any, Array]:
    loss = (np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean()
    return loss, (1 / (1 + np.exp(-x)) - y) / x.size


def allocated(step: Callable[[], object]) -> int:
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal(SHAPE, dtype=np.float32)
    y = (rng.random(SHAPE, dtype=np.float32) < 0.5).astype(np.float32)
    ways = {"plain NumPy": lambda: formula(x, y), "binxent": lambda: value_and_grad(x, y)}
    times = in_turn(ways, ROUNDS)
    tail = np.float32([20]), np.float32([1])
    gradients = {"plain NumPy": formula(*tail)[1], "binxent": value_and_grad(*tail)[1]}

    for name, fact in facts().items():
        print(f"{name}: {fact}")
    print("               median      least    memory  gradient at x = 20, y = 1")
    for way, step in ways.items():
        median, least = 1e3 * times[way].median, 1e3 * times[way].least
        print(f"{way:11} {median:7.1f} ms {least:7.1f} ms  {allocated(step) / 2**20:3.0f} MiB  {gradients[way][0]:.3g}")


if __name__ == "__main__":
    main()
