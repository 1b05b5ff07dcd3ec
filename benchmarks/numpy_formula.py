"""The README's first figure: value and gradient, by the formula in plain NumPy and by the kernel.

Run ``python benchmarks/numpy_formula.py``. Each result is allocated afresh, as in training, and the two take turns.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from binxent import kernel
from binxent.numpy import value_and_grad

ROUNDS = 15


def formula(x: Any, y: Any) -> tuple[Any, Any]:
    loss = (np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean()
    return loss, (1 / (1 + np.exp(-x)) - y) / x.size


def seconds(run: Callable[[Any, Any], object], x: Any, y: Any) -> float:
    start = time.perf_counter()
    run(x, y)
    return time.perf_counter() - start


def allocated(run: Callable[[Any, Any], object], x: Any, y: Any) -> int:
    tracemalloc.start()
    run(x, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    random = np.random.default_rng(0)
    x = 3 * random.standard_normal((4096, 4096), dtype=np.float32)
    y = (random.random(x.shape) < 0.5).astype(np.float32)
    runs = {"plain NumPy": formula, "binxent": value_and_grad}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds(run, x, y))

    print(f"{x.shape} float32, NumPy {np.__version__}, {kernel.instruction_set}, {kernel.num_threads()} threads")
    print("             median      least   memory   gradient at x = 20, y = 1")
    tail = np.float32([20]), np.float32([1])
    for name, run in runs.items():
        median, least = 1e3 * statistics.median(times[name]), 1e3 * min(times[name])
        mebibytes = allocated(run, x, y) / 2**20
        print(f"{name:11} {median:5.1f} ms   {least:5.1f} ms  {mebibytes:3.0f} MiB   {run(*tail)[1][0]:.3g}")


if __name__ == "__main__":
    main()
