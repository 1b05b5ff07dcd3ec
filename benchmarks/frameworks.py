"""Each framework's own loss against ours: forward and backward, a fresh gradient at each step.

One process for each framework, in which the two take turns; a framework that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.timing import Times, in_turn

LARGE, SMALL = (4096, 4096), (64,)
SMALL_REPEATS = 200  # calls in one round, so that the clock can tell them

Array = np.ndarray[Any, Any]
Step = Callable[[], object]
Ways = dict[str, Step]


def operands(shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal(shape, dtype=np.float32)
    y = (rng.random(shape, dtype=np.float32) < 0.3).astype(np.float32)
    return x, y, np.full(shape[-1], 3, np.float32)


def repeated(step: Step, times: int) -> Step:
    def steps() -> None:
        for _ in range(times):
            step()

    return steps


def torch_ways(shape: tuple[int, ...], case: str) -> Ways:
    import torch

    import binxent.torch as bx

    dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
    x, y, p = (torch.from_numpy(a).to(dtype) for a in operands(shape))
    x.requires_grad_()
    options = {"pos_weight": p} if case == "pos_weight" else {}

    def step(function: Callable[..., Any]) -> Step:
        def run() -> None:
            function(x, y, **options).backward()
            x.grad = None

        return run

    return {
        "binxent": step(bx.binary_cross_entropy_with_logits),
        "torch": step(torch.nn.functional.binary_cross_entropy_with_logits),
    }


WAYS = {"torch": torch_ways}
CASES = ("plain", "pos_weight", "bfloat16")


def measure(framework: str, rounds: int) -> Iterator[tuple[str, dict[str, Times]]]:
    for case in CASES:
        yield f"{case}, {list(LARGE)}", in_turn(WAYS[framework](LARGE, case), rounds)
    small = {name: repeated(step, SMALL_REPEATS) for name, step in WAYS[framework](SMALL, "plain").items()}
    times = in_turn(small, rounds)
    yield f"plain, {list(SMALL)}", {n: Times(tuple(s / SMALL_REPEATS for s in t.seconds)) for n, t in times.items()}


def main(framework: str, rounds: int = 11) -> None:
    if importlib.util.find_spec(framework) is None:
        print(f"{framework} is not installed")
        return
    for case, times in measure(framework, rounds):
        ours = times["binxent"]
        for name, theirs in times.items():
            ratio = theirs.median / ours.median
            print(f"{framework}: {case}: {name}: median {1e3 * theirs.median:.3f} ms, {ratio:.2f} × binxent")


if __name__ == "__main__":
    import sys

    for framework in sys.argv[1:] or WAYS:
        main(framework)
