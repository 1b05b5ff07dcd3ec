"""Learns which of more than 100 000 names a Python function uses, beside the way that stores all logits.

    python extreme.py

The data are described in functions.py. Each way trains the same model from the same numbers, in a process of its own,
so that the peak of its memory is known. ``binxent`` has a head that makes the logits of some labels at a time; it takes
the targets as lists. ``torch`` has ``torch.nn.functional.linear``, dense targets and torch's own loss. The first goes
on for whole epochs. A picture is written to extreme.png. It needs torch and ``binxent[demo]``.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from functions import Functions, load
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import binxent.torch as bx
from binxent import IndexTargets

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

FEATURES = 128
RANKS = (1, 3, 5)


@dataclass
class Run:
    """What one way gives."""

    losses: list[float] = field(default_factory=list)  # of each step
    precision: list[tuple[float, ...]] = field(default_factory=list)  # at 1, 3 and 5, at first and after each epoch
    seconds: float = 0.0  # a step, the median
    memory: int = 0  # bytes at the peak, over those before the first step


class Model(torch.nn.Module):
    """The mean of the words' vectors, and a head that has one output for each name."""

    def __init__(self, data: Functions) -> None:
        super().__init__()
        self.words = torch.nn.EmbeddingBag(data.known_words, FEATURES, mode="mean")
        self.norm = torch.nn.LayerNorm(FEATURES)
        self.loss = bx.LinearBCEWithLogitsLoss(FEATURES, len(data.names), bias=True, reduction="batchmean")
        # A name's bias begins at the logit of its base rate, so that training does not begin by learning the rates.
        used = torch.bincount(data.labels.rows(data.training)[0], minlength=len(data.names))
        with torch.no_grad():
            self.loss.linear.bias.copy_(torch.logit((used + 0.5) / (len(data.training) + 1)))
            self.loss.linear.weight.zero_()

    def forward(self, words: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        return self.norm(self.words(words, begins))


def precision(model: Model, data: Functions, batch: int) -> tuple[float, ...]:
    """How many of the first 1, 3 and 5 names that the model gives are right, on the functions of the test."""
    hits = np.zeros(max(RANKS))
    with torch.no_grad():
        for rows in np.split(data.test, range(batch, len(data.test), batch)):
            labels = model.loss.predict(model(*data.words.rows(rows)), max(RANKS)).labels.numpy()
            for row, found in zip(rows, labels, strict=True):
                hits += np.isin(found, data.labels.flat[data.labels.offsets[row] : data.labels.offsets[row + 1]])
    return tuple(float(hits[:rank].sum() / rank / len(data.test)) for rank in RANKS)


def train(way: str, data: Functions, steps: int, batch: int, epoch: int, seed: int, pipe: Connection) -> None:
    """Trains for some steps; sends the number of each step, and at last the ``Run``."""
    torch.manual_seed(seed)
    chance, run, times = np.random.default_rng(seed), Run(), []
    model = Model(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    run.precision.append(precision(model, data, batch))
    order = np.concatenate([chance.permutation(data.training) for _ in range(-(-steps * batch // len(data.training)))])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        labels, begins = data.labels.rows(rows)
        start = time.perf_counter()
        hidden = model(*data.words.rows(rows))
        if way == "binxent":
            value = model.loss(hidden, IndexTargets(labels, offsets=begins, num_labels=len(data.names)))
        else:
            target = torch.zeros(len(rows), len(data.names))
            target[torch.repeat_interleave(torch.diff(begins, append=torch.tensor([len(labels)]))), labels] = 1
            logits = model.loss.linear(hidden)
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(rows)
        optimizer.zero_grad()
        value.backward()
        times.append(time.perf_counter() - start)
        optimizer.step()
        run.losses.append(value.item())
        if (step + 1) % epoch == 0 or step + 1 == steps:
            run.precision.append(precision(model, data, batch))
        pipe.send(step + 1)
    run.seconds = float(np.median(times))
    run.memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    pipe.send(run)


def picture(runs: dict[str, Run], names: int) -> Figure:
    """The losses of both ways, what the model learns, and what a step costs."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, learnt, time_, memory = figure.subplots(1, 4, width_ratios=(3, 3, 1.5, 1.5))
    figure.suptitle(f"{names:,} labels, {FEATURES} features: which names does a function use?")
    colours = {"binxent": "#0072B2", "torch": "#D55E00"}
    for way, run in runs.items():
        losses.plot(run.losses, color=colours[way], label=way, zorder=2 + (way == "torch"))
    losses.set(xlabel="step", title="loss of a function")
    losses.legend()
    scores = np.array(runs["binxent"].precision)
    for rank, of_rank in zip(RANKS, scores.T, strict=True):
        learnt.plot(of_rank, marker="o", label=f"precision@{rank}")
    learnt.set(xlabel="epoch", title="of the names given, on the test", ylim=(0, 1))
    learnt.legend()
    for axes, title, of in (
        (time_, "ms, loss and gradients", lambda run: 1e3 * run.seconds),
        (memory, "MB at the peak", lambda run: run.memory / 1e6),
    ):
        bars = axes.bar(list(runs), [of(run) for run in runs.values()], color=[colours[way] for way in runs])
        axes.bar_label(bars, fmt="%.0f")
        axes.set(title=title)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def table(runs: dict[str, Run]) -> Table:
    """Both ways side by side; their losses are those of the steps that both made."""
    common = min(len(run.losses) for run in runs.values())
    shown = Table("way", f"loss, steps 1–{common}", "steps", "P@1", "P@3", "P@5", "ms a step", "MB")
    for way, run in runs.items():
        shown.add_row(
            way,
            f"{np.mean(run.losses[:common]):.4f}",
            str(len(run.losses)),
            *(f"{score:.3f}" for score in run.precision[-1]),
            f"{1e3 * run.seconds:.0f}",
            f"{run.memory / 1e6:.0f}",
        )
    return shown


@click.command()
@click.option("--epochs", default=2, show_default=True, help="Passes over the training functions.")
@click.option("--batch", default=256, show_default=True, help="Functions in a step.")
@click.option("--compared", default=40, show_default=True, help="Steps of the way that stores all logits.")
@click.option("--seed", default=0, show_default=True, help="Of the initial numbers and of the order.")
@click.option("--every", default=1, show_default=True, help="Read each n-th file only, for a first look.")
def main(epochs: int, batch: int, compared: int, seed: int, every: int) -> None:
    """Train a classifier with more labels than fit, and compare it with the usual way."""
    console = Console()
    with Progress(console=console) as progress:
        reading = progress.add_task("reading files")
        data = load(every, lambda done, of: progress.update(reading, completed=done, total=of))
        epoch = len(data.training) // batch
        runs = {}
        spawn = multiprocessing.get_context("spawn")
        for way, steps in (("binxent", epochs * epoch), ("torch", min(compared, epochs * epoch))):
            training = progress.add_task(way, total=steps)
            receive, send = spawn.Pipe(duplex=False)
            worker = spawn.Process(target=train, args=(way, data, steps, batch, epoch, seed, send))
            worker.start()
            send.close()
            while not isinstance(told := receive.recv(), Run):
                progress.update(training, completed=told)
            runs[way] = told
            worker.join()
    console.print(
        f"{len(data.training):,} functions to train with, {len(data.test):,} to test; {len(data.names):,} names, "
        f"{len(data.labels.flat) / (len(data.labels.offsets) - 1):.1f} a function"
    )
    console.print(table(runs))
    picture(runs, len(data.names)).savefig("extreme.png", dpi=120)
    console.print("extreme.png shows it.")


if __name__ == "__main__":
    main()
