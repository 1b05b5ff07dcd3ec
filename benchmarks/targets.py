"""Defines the project's targets, and checks whether the figures of a run meet them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import grid, results
from benchmarks.grid import focal
from benchmarks.results import Row

CASES = {
    "float32": {},
    "with pos_weight": {"options": "pos_weight"},
    "bfloat16": {"dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Target:
    framework: str
    name: str
    bound: float
    measured: float | None
    stretch: float | None = None
    at_most: bool = False
    unit: str = "×"

    def within(self, bound: float) -> bool:
        if self.measured is None:
            return False
        return self.measured <= bound if self.at_most else self.measured >= bound

    @property
    def met(self) -> bool:
        return self.within(self.bound)

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if not self.met:
            return "missed"
        return "beyond" if self.stretch is not None and self.within(self.stretch) else "met"


# The least ratio of a peer's time to ours, and the stretch target. None: the framework does not have the case.
FASTER = {
    ("torch", "torch"): ((8, 12), (10, 20), (10, 20)),
    ("torch", "torch.compile"): ((4, 6), (4, 6), (3, 6)),
    ("paddle", "paddle"): ((20, 30), (40, 60), None),
    ("mindspore", "mindspore"): ((15, 25), (20, 30), None),
    ("jax", "optax"): ((8, 15), (8, 15), (8, 8)),
}
# The least ratio of another's time to ours for the gradient and the Hessian of 4 M elements, each with one thread.
CURVED = {
    ("formula", "float32"): (2.5, 4),
    ("HalfBinomialLoss", "float32"): (3, 4),
    ("HalfBinomialLoss", "float64"): (1.3, 2),
    ("HalfBinomialLoss in given memory", "float32"): (3, 4),
    ("HalfBinomialLoss in given memory", "float64"): (1.3, 2),
}
# The greatest ratio of our time to that of streaming the same bytes, and the stretch target.
ROOF = ((1.5, 1.15), (1.6, 1.6), (2, 2))
# The greatest ratio of our time with a gamma to that without, and the stretch target: for float32, and bfloat16.
FOCAL = {2.0: (2, None), 2.3: (4, 2)}
HESSIANS = {"elements": grid.HESSIANS[0].elements, "passes": grid.HESSIAN, "threads": 1}
OVERHEAD = {"torch": "torch", "paddle": "paddle", "mindspore": "mindspore", "jax": "optax"}
# Without a kernel: the greatest ratio of our time to torch's own; and the extra memory, and its stretch target.
NO_KERNEL, NO_KERNEL_MEMORY = 1.3, (3, 1.1)
# Under torch.compile: the greatest ratio of our compiled step's time to our eager one's; and at 64 elements, where the
# compiler itself takes most of the time, the least ratio of the time of torch's compiled loss to that of ours.
COMPILED = 1.1
COMPILED_OVERHEAD = (0.8, 0.9)
IMPORT = 0.050


def of(rows: list[Row]) -> Iterator[Target]:
    for (framework, way), bounds in FASTER.items():
        for (case, conditions), bound in zip(CASES.items(), bounds, strict=True):
            if bound:
                row = results.headline(rows, framework=framework, way=way, **conditions)
                yield Target(framework, f"{way}, {case}", bound[0], row and row["ratio"], bound[1])
    for (case, conditions), bound in zip(CASES.items(), ROOF, strict=True):
        row = results.headline(rows, framework="torch", way="stream", **conditions)
        yield Target(
            "torch",
            f"streaming, {case}",
            bound[0],
            1 / row["ratio"] if row and row["ratio"] else None,
            bound[1],
            at_most=True,
        )
    for gamma, (most, stretch) in FOCAL.items():
        for case in ("float32", "bfloat16"):
            row = results.headline(rows, framework="numpy", way=focal(gamma), **CASES[case])
            yield Target("numpy", f"gamma={gamma:g}, {case}", most, row and row["ratio"], stretch, at_most=True)
    for (way, dtype), bound in CURVED.items():
        row = results.headline(rows, framework="numpy", way=way, **HESSIANS, dtype=dtype)
        yield Target("numpy", f"{way}, gradient and Hessian, {dtype}", bound[0], row and row["ratio"], bound[1])
    for framework, way in OVERHEAD.items():
        row = results.headline(rows, framework=framework, way=way, elements=64)
        yield Target(framework, f"{way}, 64 elements", 1, row and row["ratio"])
    row = results.headline(rows, framework="torch", way="binxent compiled")
    yield Target("torch", "compiled ÷ eager, float32", COMPILED, row and row["ratio"], at_most=True)
    ways = ("torch.compile", "binxent compiled")
    theirs, ours = (results.headline(rows, framework="torch", way=way, elements=64) for way in ways)
    compared = theirs["ratio"] / ours["ratio"] if theirs and ours and theirs["ratio"] and ours["ratio"] else None
    yield Target("torch", "torch.compile, 64 elements, compiled", COMPILED_OVERHEAD[0], compared, COMPILED_OVERHEAD[1])
    for way, bound in (("binxent", 1), ("binxent in place", 0)):
        row = results.headline(rows, framework="torch", quantity="memory", way=way)
        # 1 % of the logits' 64 MiB is allowed, because the system counts pages, and threads have stacks.
        yield Target("torch", f"extra memory, {way}", bound + 0.01, row and row["median"], at_most=True, unit="tensors")
    row = results.headline(rows, framework="torch", way="torch", memory="no kernel")
    measured = 1 / row["ratio"] if row and row["ratio"] else None
    yield Target("torch", "torch, without a kernel", NO_KERNEL, measured, at_most=True)
    row = results.headline(rows, framework="torch", quantity="memory", way="binxent", memory="no kernel")
    name = "extra memory, binxent without a kernel"
    most, stretch = NO_KERNEL_MEMORY
    yield Target("torch", name, most, row and row["median"], stretch, at_most=True, unit="tensors")
    row = results.find(rows, quantity="import", way="import binxent")
    yield Target("python", "import binxent", IMPORT, row and row["median"], at_most=True, unit="s")
