"""What is measured: a star of cases around [4096, 4096] float32, mean, forward and backward, and not every product.

Along each axis the others stay where they are, but for three sizes, which stand for what overhead, what the caches and
what memory decides: so each axis is seen, and the whole ends within 20 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.timing import Rounds

SIZES = (64, 512, 4096, 32_768, 262_144, 2_097_152, 16_777_216, 67_108_864)
SMALL, MIDDLE, LARGE = 64, 262_144, 16_777_216
DTYPES = ("float32", "bfloat16", "float16", "float64")
OPTIONS = ("plain", "weight", "pos_weight", "mask")
FORWARD, BOTH = "forward", "forward + backward"

FRAMEWORKS = ("numpy", "torch", "paddle", "mindspore", "jax")


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
    """The cases that one process measures, and what must be settled before it starts."""

    framework: str
    threads: int
    memory: str  # a key of MEMORY
    quantity: str  # "time" or "memory"
    cases: tuple[Case, ...]
    rounds: Rounds
    ways: tuple[str, ...] = ()  # of those that the framework has; none is all


# What the C library's allocator does with large blocks, by environment: give them back to the system at once, as it
# does by default (what a step asks for is then fresh); keep them for the next step; or, torch only, ask for huge pages.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
MEMORY = {"default": {}, "reused": KEEP, "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"}}

# Whose allocator keeps what a step has used, so that the peak of the next would not show.
POOLS = {"mindspore": ("binxent", "binxent graph", "mindspore", "mindspore graph")}

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
        if cores > 1:
            sizes = tuple(Case(n) for n in (SMALL, MIDDLE, LARGE))
            yield Process(framework, 1, "default", "time", (*sizes, *HEADLINE[1:]), rounds)
        yield Process(framework, cores, "reused", "time", (Case(2_097_152), *HEADLINE), rounds)
        if framework == "torch":
            yield Process(framework, cores, "huge pages", "time", (Case(2_097_152), *HEADLINE), rounds)
        yield from peaks(framework, cores, HEADLINE, rounds)


def quick(frameworks: Sequence[str], cores: int) -> Iterator[Process]:
    """What the targets ask for, within three minutes."""
    rounds = Rounds(2.5, 3, 7)
    for framework in frameworks:
        yield Process(framework, cores, "default", "time", (Case(SMALL), *HEADLINE), rounds)
        if framework in ("numpy", "torch"):
            yield from peaks(framework, cores, HEADLINE[:1], rounds)
