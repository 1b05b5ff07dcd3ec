"""``python -m benchmarks.sparse``: times sparse targets beside dense ones, the gradient in place of the logits.

The targets that the kernel reads take memory for their positives alone; dense ones are read with the logits, element
by element. ``--check`` asks for the ratio that the sparse pass must reach: exit code 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.timing import Rounds, Step, in_turn
from binxent import IndexTargets, kernel
from binxent.numpy import value_and_grad

Array = np.ndarray[Any, Any]

TARGET = 1.3  # times as fast as with dense targets of float32
DENSE, SPARSE = "dense float32", "IndexTargets"


def labels(rows: int, columns: int, positives: int, seed: int = 0) -> Array:
    """Indices of [rows, positives]."""
    return np.random.default_rng(seed).integers(0, columns, (rows, positives))


def dense(indices: Array, columns: int, dtype: Any = np.float32) -> Array:
    target = np.zeros((len(indices), columns), dtype)
    np.put_along_axis(target, indices, 1, 1)
    return target


def ways(rows: int, columns: int, positives: int) -> Mapping[str, Step]:
    indices = labels(rows, columns, positives)
    logits = np.random.default_rng(1).normal(0, 3, (rows, columns)).astype(np.float32)
    targets: dict[str, Any] = {DENSE: dense(indices, columns), "dense bool": dense(indices, columns, bool)}
    targets[SPARSE] = IndexTargets(indices)

    def step(target: Any) -> Step:
        return lambda: value_and_grad(logits, target, out=logits)

    return {name: step(target) for name, target in targets.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=100_000)
    parser.add_argument("--positives", type=int, default=5, help="of each row")
    parser.add_argument("--threads", type=int, help="by default as many as there are processors")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.threads:
        kernel.set_num_threads(given.threads)
    print(
        f"[{given.rows}, {given.columns}] logits of float32, {given.positives} positives a row, "
        f"{kernel.num_threads()} threads, {kernel.instruction_set}"
    )
    times = in_turn(ways(given.rows, given.columns, given.positives), Rounds(20, least=7, most=60))
    for name, taken in times.items():
        ratio = times[DENSE].over(taken)
        spread = f"{ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})"
        print(f"{name:15} {1e3 * taken.spread().least:8.1f} ms at least; {spread} times as fast as {DENSE}")
    reached = times[DENSE].over(times[SPARSE]).median
    return int(given.check and reached < TARGET)


if __name__ == "__main__":
    sys.exit(main())
