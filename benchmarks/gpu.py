"""``python -m benchmarks.gpu``: measures time, memory, exactness and launches on a CUDA card, within six minutes.

It compares our loss in eager code, our loss compiled, and the kernel alone with torch's loss and torch.compile: loss
and gradient of the mean of 64 … 2³⁰ elements. The figures go to a CSV file with the card's name, from which a table and
a chart are made. ``--dry`` goes through all of it with few elements, on the CPU and in Triton's interpreter: its times
say nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS, ROOT, report, results
from benchmarks.frameworks import masked
from benchmarks.machine import facts
from benchmarks.results import Row
from benchmarks.timing import Rounds, Step, in_turn
from benchmarks.worker import refusal
from tests.reference import DTYPES, error, expected

console = Console(highlight=False)
Loss = Callable[..., Tensor]

SIZES = tuple(2**k for k in (6, 12, 16, 20, 24, 28, 30))
COMPILED_SIZES = (2**12, 2**28)  # each costs seconds to compile
EXACT_SIZE = 2**20  # the size at which the gradient is compared with the definition, and from run to run
DRY_SIZES = (2**6, 2**12)
ROW = 2**10  # elements of a row, along which pos_weight lies
SECONDS = 360.0  # the larger sizes that are left after this time are left out


@dataclass(frozen=True)
class Case:
    dtype: str
    options: str  # "plain", "pos_weight" or "mask"
    target: str = ""

    @property
    def name(self) -> str:
        return f"{self.dtype}{f', {self.target} targets' if self.target else ''}"

    @property
    def least(self) -> int:
        """The bytes that must be read and written for an element."""
        size = getattr(torch, self.dtype).itemsize
        return 2 * size + (1 if self.target else size) + (1 if self.options == "mask" else 0)


CASES = (
    Case("float32", "plain"),
    Case("float32", "pos_weight"),
    Case("float32", "mask"),
    Case("bfloat16", "plain"),
    Case("bfloat16", "plain", "bool"),
    Case("bfloat16", "pos_weight"),
    Case("bfloat16", "mask"),
)


def operands(case: Case, size: int, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator(device).manual_seed(7)
    shape = (size,) if size < ROW else (size // ROW, ROW)
    dtype = getattr(torch, case.dtype)
    x = torch.empty(shape, dtype=dtype, device=device).normal_(0, 3, generator=generator)
    target = torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(0.3, generator=generator)
    options: dict[str, Tensor] = {}
    if case.options == "pos_weight":
        options["pos_weight"] = torch.rand(shape[-1], device=device, generator=generator).add_(0.5).to(dtype)
    if case.options == "mask":
        options["mask"] = torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(0.7, generator=generator)
    return x, target.to(getattr(torch, case.target or case.dtype)), options


def textbook(x: Tensor, target: Tensor, pos_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """The loss as a program with torch's own functions writes it."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    target = target.to(x.dtype)
    if mask is None:
        return loss(x, target, pos_weight=pos_weight)
    found: Tensor = masked(loss)(x, target, mask, pos_weight=pos_weight)
    return found


def under_autograd(loss: Loss, x: Tensor, target: Tensor, options: Mapping[str, Tensor]) -> Callable[[], Any]:
    leaf = x.detach().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        value = loss(leaf, target, **options)
        value.backward()
        gradient, leaf.grad = leaf.grad, None
        return value.detach(), gradient

    return step


def of_kernel(x: Tensor, target: Tensor, options: Mapping[str, Tensor], *, in_place: bool = False) -> Callable[[], Any]:
    """A step of the kernel alone, without tape or checks."""
    from binxent.call import Operands, known_plan
    from binxent.formula import LOGITS
    from binxent.kernels import Outputs, triton

    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in (x, target))
    shapes = {name: tuple(tensor.shape) for name, tensor in options.items()}
    shape = tuple(x.shape)

    def step() -> tuple[Tensor, Tensor]:
        call = known_plan(LOGITS, "mean", dtypes, shape, shape, **shapes)
        total, gradient = x.new_empty(()), x if in_place else torch.empty_like(x)
        triton.compute(call, Operands(x, target, **options), Outputs(total=total, gradient=gradient))
        return total, gradient

    return step


def ways(case: Case, size: int, device: torch.device, *, dry: bool) -> dict[str, Callable[[], Any]]:
    import binxent.torch as bx

    ours = bx.binary_cross_entropy_with_logits
    x, target, options = operands(case, size, device)
    found = {
        "kernel": of_kernel(x, target, options),
        "kernel in place": of_kernel(x.clone(), target, options, in_place=True),
        "binxent": under_autograd(ours, x, target, options),
        "torch": under_autograd(textbook, x, target, options),
    }
    if not dry and size in COMPILED_SIZES:
        torch._dynamo.reset()
        for name, loss in (("binxent compiled", ours), ("torch.compile", textbook)):
            # torch.compile does not compile torch's own function by itself, only as part of another.
            compiled = torch.compile(lambda *tensors, loss=loss, **named: loss(*tensors, **named), dynamic=False)
            found[name] = under_autograd(compiled, x, target, options)
    return found


# On a card


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeated(step: Step, seconds: float) -> tuple[Step, int]:
    """The step repeated to take that long, and then one wait for the device, whose time is thus measured."""
    step()
    wait()
    start = time.perf_counter()
    step()
    wait()
    number = max(1, min(1000, int(seconds / (time.perf_counter() - start))))

    def run() -> None:
        for _ in range(number):
            step()
        wait()

    return run, number


def copy_bandwidth(size: int = 2**30) -> float:
    """The bytes per second of a copy, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    to = torch.empty_like(source)
    run, number = repeated(lambda: to.copy_(source), 0.05)
    return 2 * size * number / in_turn({"copy": run}, Rounds(0.5, 5, 15))["copy"].spread().median


def extra_memory(step: Step, tensor: int) -> float:
    """The peak beyond the memory in use before, with the step's results, in tensors of the logits' size."""
    step()
    gc.collect()
    wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    wait()
    return (torch.cuda.max_memory_allocated() - before) / tensor


def launches(step: Step) -> int:
    """The number of kernels, copies and fills that one step queues for the device."""
    from torch.profiler import ProfilerActivity, profile

    wait()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        wait()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def synchronises(step: Step) -> bool:
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as found:
        if "synchroniz" not in str(found):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def same_bits(step: Callable[[], Any]) -> bool:
    """Whether runs have the same bits: one after another, and two at once on streams of their own."""
    found = [step()]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()] if torch.cuda.is_available() else []
    wait()
    for stream in streams:
        with torch.cuda.stream(stream):
            found.append(step())
    wait()
    found.append(step())
    raw = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    first, *others = [[t.reshape(-1).view(raw[t.element_size()]) for t in both] for both in found]
    return all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


# Exactness


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()


def ulps(step: Callable[[], Any], case: Case, size: int, device: torch.device) -> dict[str, float]:
    """The worst error of the gradient, and the error of the mean, in ulp."""
    x, target, options = operands(case, size, device)
    exact = expected(array(x), array(target), **{name: array(tensor) for name, tensor in options.items()})
    divisor = exact.divisor("mean")
    mean, gradient = step()
    off = error(array(gradient), exact.gradient / divisor, np.abs(exact.gradient) / divisor, case.dtype)
    value = exact.value("mean")
    return {"gradient_ulp": float(off.max()), "mean_ulp": float(error(array(mean), value, value, case.dtype))}


# All of it


def measure(
    case: Case, size: int, device: torch.device, bandwidth: float | None, *, dry: bool, rounds: Rounds
) -> Iterator[Row]:
    steps = ways(case, size, device, dry=dry)
    refused = {name: why for name, step in steps.items() if (why := refusal(step))}
    common = {"target": case.target or case.dtype, "dtype": case.dtype, "options": case.options, "elements": size}
    for name, why in refused.items():
        yield {**common, "way": name, "error": why}
    steps = {name: step for name, step in steps.items() if name not in refused}
    runs = {name: repeated(step, 0.0 if dry else 0.02) for name, step in steps.items()}
    taken = in_turn({name: run for name, (run, _) in runs.items()}, rounds)
    for name, step in steps.items():
        number = runs[name][1]
        spread = {what: value / number for what, value in vars(taken[name].spread()).items()}
        row: Row = {**common, "way": name, "unit": "s", **spread, "rounds": len(taken[name].seconds)}
        if "kernel" in taken:
            ratio = [a * runs["kernel"][1] / number / b for a, b in zip(
                taken[name].seconds, taken["kernel"].seconds, strict=True
            )]  # fmt: skip
            row |= {"against": "kernel", "ratio": float(np.median(ratio))}
        if bandwidth:
            row |= {
                "share_of_copy": size * case.least / bandwidth / spread["median"],
                "extra_tensors": extra_memory(step, size * getattr(torch, case.dtype).itemsize),
                "launches": launches(step),
                "synchronises": synchronises(step),
            }
        if size == (DRY_SIZES[-1] if dry else EXACT_SIZE) and name != "kernel in place":
            row |= {**ulps(step, case, size, device), "same_bits": same_bits(step)}
        yield row


def card() -> dict[str, str]:
    import triton

    known = {"torch": torch.__version__, "Triton": triton.__version__}
    if not torch.cuda.is_available():
        return {"card": "none: Triton's interpreter", **known}
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return {"card": properties.name, "card memory": memory, "CUDA": str(torch.version.cuda), **known}


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="Loss and gradient of the mean", caption="share: of the measured copy bandwidth")
    for heading in ("case", "way"):
        shown.add_column(heading)
    for heading in ("elements", "µs", "share", "extra", "launches", "waits", "ulp", "same bits"):
        shown.add_column(heading, justify="right")

    def cell(row: Row, name: str, form: str) -> str:
        return "" if row.get(name) is None else format(row[name], form)

    for row in rows:
        if row.get("error"):
            shown.add_row(f"{row['dtype']}, {row['options']}", row["way"], str(row["elements"]), row["error"])
            continue
        shown.add_row(
            f"{row['dtype']}, {row['target']} targets, {row['options']}",
            row["way"],
            str(row["elements"]),
            f"{1e6 * row['median']:.1f}",
            cell(row, "share_of_copy", ".0%"),
            cell(row, "extra_tensors", "+.2f"),
            cell(row, "launches", "d"),
            cell(row, "synchronises", ""),
            cell(row, "gradient_ulp", ".2f"),
            cell(row, "same_bits", ""),
        )
    return shown


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="few elements, on the CPU, in Triton's interpreter")
    parser.add_argument(
        "--results", type=Path, help=f"folder; default {RESULTS.relative_to(ROOT)}, with --dry build/benchmarks"
    )
    options = parser.parse_args(arguments)
    if options.results is None:
        options.results = ROOT / "build" / "benchmarks" if options.dry else RESULTS
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    elif not torch.cuda.is_available():
        console.print("torch finds no CUDA card here; --dry goes through all of it without one", style="red")
        return 1
    start = time.monotonic()
    device = torch.device("cpu" if options.dry else "cuda:0")
    machine = {**facts(), **card()}
    console.print("\n".join(f"{name}: {fact}" for name, fact in machine.items()))
    bandwidth = None if options.dry else copy_bandwidth()
    if bandwidth:
        machine["copy bandwidth"] = f"{bandwidth / 1e12:.3f} TB/s"
        console.print(f"copy: {machine['copy bandwidth']}, read and written")
    rounds = Rounds(0, 2, 2) if options.dry else Rounds(0.4, 3, 9)
    rows: list[Row] = []
    for size in DRY_SIZES if options.dry else SIZES:
        for case in CASES:
            if time.monotonic() - start > SECONDS - 30:
                console.print(
                    f"left out: {case.name}, {case.options}, {size} elements: the time is over", style="yellow"
                )
                continue
            rows += [
                {**row, **machine} for row in measure(case, size, device, bandwidth, dry=options.dry, rounds=rounds)
            ]
            gc.collect()
            if not options.dry:
                torch.cuda.empty_cache()
    file = options.results / "gpu.csv"
    results.write(file, rows, results.GPU)
    report.write(options.results)
    console.print(table(rows))
    console.print(f"written: {file}; {time.monotonic() - start:.0f} s")
    broken = [row for row in rows if row.get("error") and row["way"].startswith(("kernel", "binxent"))]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
