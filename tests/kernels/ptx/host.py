"""``python -m tests.kernels.ptx.host``: how long a step of the loss keeps the host, where a launch does nothing.

It says nothing of a card. It times what the host does for a small loss: our face, Triton's launcher, torch's autograd.
Beside it, in the same run, torch's own loss on the CPU, with all that it computes.
"""

from __future__ import annotations

import os
import time
from typing import Any

os.environ["BINXENT_KERNELS"] = "triton"  # read at the import

import torch

from binxent.torch import binary_cross_entropy_with_logits as ours
from tests.kernels.ptx import driver

ROUNDS, STEPS = 300, 50


def least(loss: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    """Microseconds of a forward and a backward: the least mean of 50 steps."""
    found = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(STEPS):
            x.grad = None
            loss(x, y).backward()
        found = min(found, (time.perf_counter() - start) / STEPS)
    return 1e6 * found


def main() -> None:
    torch.set_num_threads(1)
    driver.install(idle=True)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    for size in (64, 4096):
        x, y = torch.randn(size, requires_grad=True), torch.rand(size)
        times = least(ours, x, y), least(theirs, x, y)
        print(f"{size} elements: ours {times[0]:.1f} µs on the host, torch on the CPU {times[1]:.1f} µs")


if __name__ == "__main__":
    main()
