"""``python -m benchmarks.tails``: what each framework computes where a model is already right, beside the exact result.

Loss and gradient in float32 for logits up to 120 on their target's side of 0, as numbers and not as errors, for the
chart ``tail.svg``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import RESULTS, grid, results
from benchmarks.frameworks import Array, Framework
from benchmarks.machine import cores
from benchmarks.results import Row
from benchmarks.ulps import exact

LOGITS = np.arange(0, 121, dtype=np.float32)
EXACT = "exact"


def of(way: str, target: int, loss: Array, gradient: Array) -> Iterator[Row]:
    for logit, *values in zip(LOGITS, loss, gradient, strict=True):
        for output, value in zip(("loss", "gradient"), values, strict=True):
            yield {"way": way, "output": output, "target": target, "logit": float(logit), "value": float(value)}


def measure(framework: Framework) -> Iterator[Row]:
    """Yields the losses and gradients of each way, and the exact ones."""
    for target in (0, 1):
        x, y = LOGITS * np.float32(2 * target - 1), np.full(len(LOGITS), target, np.float32)
        truth = exact(x, y)
        yield from of(EXACT, target, truth.loss, truth.gradient)
        for way, evaluate in framework.evaluations(probabilities=False).items():
            if way != "torch.compile":  # it loses the digits that torch loses, and its line would lie on torch's
                yield from of(way, target, *evaluate(x, y, "none"))


def main(arguments: Sequence[str] | None = None) -> int:
    from rich.console import Console  # here, because the environments in which the workers measure need not have it

    from benchmarks import processes, report

    parser = argparse.ArgumentParser(prog="python -m benchmarks.tails", description=(__doc__ or "").splitlines()[0])
    processes.add_arguments(parser)
    options = parser.parse_args(arguments)
    frameworks = options.frameworks or grid.FRAMEWORKS
    jobs = [
        processes.Job(f"tails, {name}", {"framework": name, "quantity": "tails"}, cores(), {}, 1) for name in frameworks
    ]
    console = Console(highlight=False)
    rows, broken = processes.gather(jobs, dict(options.python), console)
    results.write(RESULTS / "tail.csv", rows, results.TAIL)
    report.write(RESULTS)
    for line in broken:
        console.print(line, style="red")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
