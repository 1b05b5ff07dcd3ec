"""``python -m benchmarks.step``: what a whole training step gains, of which the loss is one part.

Forward and backward of a model and its loss in PyTorch, with torch's loss, with ours, and with the sum of the logits in
the place of a loss, which costs next to nothing. The ways take turns. Optimizer steps are left out. On a machine that
other programs use too, ``--shared`` measures the processor time of one thread. The figures go to ``step.csv``.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as torch_loss

from benchmarks import RESULTS, report, results
from benchmarks.machine import facts
from benchmarks.timing import Rounds, Step, in_turn
from binxent.torch import binary_cross_entropy_with_logits

Loss = Callable[[Tensor, Tensor], Tensor]
SECONDS, MOST = 10, 400  # for each model; and how many rounds a short step has at most
# Rows, features and labels of a linear layer.
LAYERS = ((512, 256, 20_000), (256, 768, 100_000), (64, 768, 1000))


def plain_sum(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sum()


WAYS: dict[str, Loss] = {"binxent": binary_cross_entropy_with_logits, "torch": torch_loss, "plain sum": plain_sum}


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def train(model: nn.Module, loss: Loss, inputs: Tensor, target: Tensor) -> None:
    model.zero_grad()
    loss(model(inputs), target).backward()


def steps(model: nn.Module, rows: int, features: int, labels: int) -> dict[str, Step]:
    torch.manual_seed(0)
    inputs, target = torch.randn(rows, features), (torch.rand(rows, labels) < 0.1).float()
    return {way: functools.partial(train, model, loss, inputs, target) for way, loss in WAYS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="of each model at least; default 15")
    parser.add_argument(
        "--shared", action="store_true", help="processor time of one thread, which no other program adds to"
    )
    options = parser.parse_args(arguments)
    wanted = options.rounds
    if options.shared:
        torch.set_num_threads(1)
    clock, kind = (time.process_time, "processor") if options.shared else (time.perf_counter, "wall")
    models = {
        f"linear layer, {rows} × {features} × {labels:,} labels": (
            nn.Linear(features, labels),
            (rows, features, labels),
        )
        for rows, features, labels in LAYERS
    }
    models["small network, 128 × 64 × 128 × 128 × 10 labels"] = (small_network(), (128, 64, 10))
    found = []
    for name, (model, shape) in models.items():
        taken = in_turn(steps(model, *shape), Rounds(SECONDS, wanted, MOST), clock)
        for way, times in taken.items():
            over = times.over(taken["binxent"])
            ratio = {"ratio": over.median, "ratio_lower": over.lower, "ratio_upper": over.upper, "against": "binxent"}
            row = {
                "model": name,
                "way": way,
                "threads": torch.get_num_threads(),
                "clock": kind,
                "unit": "s",
                **vars(times.spread()),
                **ratio,
            }
            found.append({**row, "rounds": len(times.seconds), **facts(), "torch": torch.__version__})
    results.write(RESULTS / "step.csv", found, results.STEP)
    report.write(RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
