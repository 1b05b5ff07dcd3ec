"""``python -m benchmarks.head``: measures the linear head, on the CPU and on a CUDA card by the same command.

Loss and gradients of a mean are timed against the three products alone in the same chunks, and against the framework's
own way, which stores all logits, where that fits. The peak of memory is measured in a process of its own for each way.
``--quick`` measures smaller heads, ``--chunks`` several sizes of chunks. The figures go to a CSV file.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as torch_loss

from benchmarks import RESULTS, ROOT, results
from benchmarks.machine import facts
from benchmarks.memory import extra
from benchmarks.results import HEAD, Row
from benchmarks.timing import Rounds, in_turn
from binxent import IndexTargets, linear
from binxent.torch import LinearBCEOptions, linear_binary_cross_entropy_with_logits, linear_chunks

console = Console(highlight=False)
POSITIVES = 5  # of a row
MOST_FOR_ALL_LOGITS = 6 * 2**30  # bytes that the framework's own way may take; it is left out beyond
MIB = 2**20


@dataclass(frozen=True)
class Case:
    rows: int
    features: int
    labels: int
    dtype: str
    target: str  # "indices", or "bool"
    chunk: int = 0  # MiB; 0 is the default of the device

    @property
    def logits(self) -> int:
        return self.rows * self.labels * getattr(torch, self.dtype).itemsize


def cases(device: str, *, quick: bool, chunks: Sequence[int]) -> list[Case]:
    if device == "cuda":
        sizes = [(512, 768, 670_000), (1024, 768, 1_000_000), (2048, 1024, 1_000_000)]
        dtype, quick_size = "bfloat16", (512, 768, 100_000)
    else:
        sizes, dtype, quick_size = [(256, 768, 670_000)], "float32", (256, 768, 67_000)
    chosen = [quick_size] if quick else sizes
    found = [Case(*size, dtype, target, chunk) for size in chosen for target in ("indices", "bool") for chunk in chunks]
    return [case for case in found if case.target == "indices" or case.rows * case.labels <= 2**30]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def operands(case: Case, device: str) -> tuple[Tensor, Tensor, Any]:
    generator = torch.Generator(device).manual_seed(7)
    dtype = getattr(torch, case.dtype)
    x = torch.randn(case.rows, case.features, device=device, generator=generator).to(dtype).requires_grad_()
    w = torch.randn(case.labels, case.features, device=device, generator=generator).mul_(case.features**-0.5)
    positives = torch.randint(case.labels, (case.rows, POSITIVES), device=device, generator=generator)
    if case.target == "indices":
        return x, w.to(dtype).requires_grad_(), IndexTargets(positives, num_labels=case.labels)
    return x, w.to(dtype).requires_grad_(), dense(case, positives)


def dense(case: Case, positives: Tensor, dtype: torch.dtype = torch.bool) -> Tensor:
    target = torch.zeros(case.rows, case.labels, dtype=dtype, device=positives.device)
    return target.scatter_(1, positives, torch.ones_like(positives, dtype=dtype))


def ways(case: Case, device: str) -> dict[str, Callable[[], Any]]:
    x, w, target = operands(case, device)
    default = linear_chunks.CHUNK if device == "cpu" else linear_chunks.CHUNK_ELSEWHERE
    most = case.chunk * MIB or default
    step = linear.labels_of_chunk(case.labels, linear.bytes_of_label(*x.shape, x.element_size(), casts=False), most)

    def after(loss: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> Tensor:
            value = loss()
            value.backward()
            x.grad = w.grad = None
            wait(device)
            return value.detach()

        return run

    def products() -> None:
        """What must be computed in any case, written as the head writes it."""
        with torch.no_grad():
            memory, of_weight = x.new_empty(case.rows * step), torch.empty_like(w)
            of_input = torch.zeros_like(x, dtype=torch.float32)
            for start, stop in linear.chunks(case.labels, step):
                part, logits = w[start:stop], memory[: case.rows * (stop - start)].view(case.rows, -1)
                torch.mm(x, part.t(), out=logits)
                torch.mm(logits.t(), x, out=of_weight[start:stop])
                linear_chunks.add_product(of_input, logits, part)
        wait(device)

    options = LinearBCEOptions(max_chunk_bytes=most)
    found = {
        "products": products,
        "binxent": after(lambda: linear_binary_cross_entropy_with_logits(x, w, target, options=options)),
    }
    if 4 * case.logits <= MOST_FOR_ALL_LOGITS:
        whole = dense(case, target.indices) if case.target == "indices" else target
        # torch's own loss takes targets of the logits' dtype alone.
        found["torch"] = after(lambda: torch_loss(torch.nn.functional.linear(x, w), whole.to(x.dtype)))
    return found


def memory(case: Case, way: str, device: str) -> int:
    """The peak beyond what is there before a step, in bytes; on the CPU in this process, which must be a fresh one."""
    if device == "cpu":
        small = ways(Case(**{**asdict(case), "labels": 1000}), device)[way]
        return extra(small, ways(case, device)[way])
    step = ways(case, device)[way]
    step()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


def memory_apart(case: Case, way: str, device: str) -> int:
    order = json.dumps({**asdict(case), "way": way, "device": device})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.head", "--memory", order], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return int(done.stdout)


def measure(case: Case, device: str, rounds: Rounds) -> Iterator[Row]:
    steps = ways(case, device)
    taken = in_turn(steps, rounds)
    del steps
    gc.collect()
    weight = case.labels * case.features * getattr(torch, case.dtype).itemsize
    for name, times in taken.items():
        ratio = times.over(taken["products"])
        row: Row = {
            **asdict(case), "device": device, "way": name, "unit": "s", **vars(times.spread()),
            "rounds": len(times.seconds), "against": "products", "ratio": ratio.median,
            "ratio_lower": ratio.lower, "ratio_upper": ratio.upper,
        }  # fmt: skip
        if name != "products":
            row["extra_bytes"] = memory_apart(case, name, device)
            row["extra_over_weight_gradient"] = row["extra_bytes"] / weight - 1
        yield row


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="Loss and gradients of a linear head", caption="extra: beyond the weight's gradient")
    for heading in ("rows × features × labels", "targets", "chunk", "way"):
        shown.add_column(heading)
    for heading in ("seconds", "÷ products", "quartiles", "extra"):
        shown.add_column(heading, justify="right")
    for row in rows:
        more = row.get("extra_over_weight_gradient")
        shown.add_row(
            f"{row['rows']} × {row['features']} × {row['labels']}",
            row["target"],
            f"{row['chunk']} MiB" if row["chunk"] else "default",
            row["way"],
            f"{row['median']:.4g}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_lower']:.3f} … {row['ratio_upper']:.3f}",
            "" if more is None else f"{more:+.1%}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the labels")
    parser.add_argument("--chunks", type=int, nargs="+", default=[0], metavar="MIB", help="sizes of chunks; 0: default")
    parser.add_argument("--targets", choices=("indices", "bool"), help="of one kind alone")
    parser.add_argument("--threads", type=int, help="of the processor; default torch's own number")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the rounds of each case")
    parser.add_argument("--write", type=Path, default=RESULTS / "head.csv", help="the CSV file (default: %(default)s)")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.memory:
        order = json.loads(chosen.memory)
        way, device = order.pop("way"), order.pop("device")
        print(memory(Case(**order), way, device))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = {"card": torch.cuda.get_device_name() if device == "cuda" else "", "torch": torch.__version__}
    rows: list[Row] = []
    for case in cases(device, quick=chosen.quick, chunks=chosen.chunks):
        if chosen.targets in (None, case.target):
            conditions = {"threads": torch.get_num_threads(), **card, **facts()}
            rows += [{**row, **conditions} for row in measure(case, device, Rounds(chosen.seconds, 3, 30))]
            results.write(chosen.write, rows, HEAD)
    console.print(table(rows))


if __name__ == "__main__":
    main()
