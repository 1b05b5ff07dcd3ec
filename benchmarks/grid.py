"""Chooses what is measured: cases that differ from [4096, 4096] float32, mean, forward and backward, along one axis.

Not every combination is measured, so that all of it ends within 20 minutes on two cores. Dtypes and options have three
sizes, at which overhead, caches and memory decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.timing import Rounds

SIZES = (64, 512, 4096, 32_768, 262_144, 2_097_152, 16_777_216, 67_108_864)
SMALL, MIDDLE, LARGE = 64, 262_144, 16_777_216
DTYPES = ("float32", "bfloat16", "float16", "float64")
OPTIONS = ("plain", "weight", "pos_weight", "mask")
FORWARD, BOTH, HESSIAN = "forward", "forward + backward", "gradient + Hessian"
GAMMAS = (2.0, 2.3)  # of the focal loss: the usual one, and one whose power is no product of a few factors

FRAMEWORKS = ("numpy", "torch", "paddle", "mindspore", "jax")


def focal(gamma: float) -> str:
    """The way of ours with this gamma."""
    return f"binxent gamma={gamma:g}"


@dataclass(frozen=True)
class Case:
    elements: int = LARGE
    dtype: str = "float32"
    options: str = "plain"
    passes: str = BOTH

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.elements,) if self.elements < 2 * 4096 else (self.elements // 4096, 4096)


@dataclass(frozen=True)
class Process:
    """The cases that one process measures, and the settings that it must start with."""

    framework: str
    threads: int
    memory: str  # a key of MEMORY
    quantity: str  # "time" or "memory"
    cases: tuple[Case, ...]
    rounds: Rounds
    ways: tuple[str, ...] = ()  # of those that the framework has; none is all


# Environments that decide what the C library's allocator does with large blocks: by default it gives them back to the
# system, and each step gets fresh memory; it can reuse them for the next step; or, in torch only, ask for huge pages.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
# Without a kernel torch's face computes the definition in blocks, as it does on devices that no kernel reaches.
MEMORY = {
    "default": {},
    "reused": KEEP,
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "no kernel": {"BINXENT_KERNELS": ""},
}

# Frameworks whose allocator reuses the memory of earlier steps: each way needs a process of its own to show its peak.
POOLS = {"mindspore": ("binxent", "binxent graph", "mindspore", "mindspore graph")}

# What boosters ask for. scikit-learn has it, and NumPy alone, in which an expression has one thread.
HESSIANS = tuple(Case(4_194_304, dtype, passes=HESSIAN) for dtype in ("float32", "float64"))

HEADLINE = (Case(), Case(options="pos_weight"), Case(dtype="bfloat16"))


def star() -> tuple[Case, ...]:
    cases = [Case(n, passes=passes) for n in SIZES for passes in (BOTH, FORWARD)]
    cases += [Case(n, dtype=dtype) for dtype in DTYPES for n in (SMALL, MIDDLE, LARGE)]
    cases += [Case(n, options=options) for options in OPTIONS for n in (SMALL, MIDDLE, LARGE)]
    return tuple(dict.fromkeys(cases))


def peaks(framework: str, cores: int, cases: tuple[Case, ...], rounds: Rounds) -> Iterator[Process]:
    if framework not in POOLS:
        yield Process(framework, cores, "default", "memory", cases, rounds)
        return
    for case in cases:
        for way in POOLS[framework]:
            yield Process(framework, cores, "default", "memory", (case,), rounds, (way,))


def full(frameworks: Sequence[str], cores: int) -> Iterator[Process]:
    rounds, headline_rounds = Rounds(2.5, 5, 25), Rounds(8, 11, 25)
    for framework in frameworks:
        yield Process(framework, cores, "default", "time", HEADLINE, headline_rounds)
        others = tuple(case for case in star() if case not in HEADLINE)
        yield Process(framework, cores, "default", "time", others, rounds)
        if framework == "numpy":
            yield Process(framework, 1, "default", "time", HESSIANS, headline_rounds)
        if cores > 1:
            sizes = tuple(Case(n) for n in (SMALL, MIDDLE, LARGE))
            yield Process(framework, 1, "default", "time", (*sizes, *HEADLINE[1:]), rounds)
        yield Process(framework, cores, "reused", "time", (Case(2_097_152), *HEADLINE), rounds)
        if framework == "torch":
            yield Process(framework, cores, "huge pages", "time", (Case(2_097_152), *HEADLINE), rounds)
            yield Process(framework, cores, "no kernel", "time", HEADLINE, rounds)
            yield Process(framework, cores, "no kernel", "memory", HEADLINE[:1], rounds, ("binxent",))
        yield from peaks(framework, cores, HEADLINE, rounds)


def quick(frameworks: Sequence[str], cores: int) -> Iterator[Process]:
    """What the targets ask for, within three minutes."""
    rounds = Rounds(2.5, 3, 7)
    for framework in frameworks:
        yield Process(framework, cores, "default", "time", (Case(SMALL), *HEADLINE), rounds)
        if framework == "numpy":
            yield Process(framework, 1, "default", "time", HESSIANS, rounds)
        if framework in ("numpy", "torch"):
            yield from peaks(framework, cores, HEADLINE[:1], rounds)
        if framework == "torch":
            yield Process(framework, cores, "no kernel", "time", HEADLINE[:1], rounds)
            yield Process(framework, cores, "no kernel", "memory", HEADLINE[:1], rounds, ("binxent",))
