"""Value and gradient against the time that memory alone takes: the roof.

The kernel reads logits and targets and writes a gradient; to stream the same bytes is to do just that, with next to no
arithmetic. It is done in several ways, by as many threads, and the fastest is the roof. Fresh memory is asked for at
each step, as in training: the system clears every page before it lends it, and that is part of the time. Both ask for
huge pages.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.timing import Times, in_turn
from binxent import kernel
from binxent.numpy import value_and_grad

SHAPE = (4096, 4096)
MOST = 2.5  # times the roof, into fresh memory
KERNEL = "binxent"

Array = np.ndarray[Any, Any]


def advise_huge_pages(array: Array) -> None:
    if advice := getattr(mmap, "MADV_HUGEPAGE", None):
        page = mmap.PAGESIZE
        begin = -(-array.ctypes.data // page) * page
        length = (array.ctypes.data + array.nbytes) // page * page - begin
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(advice))


def add(x: Array, y: Array, out: Array) -> None:
    np.add(x, y, out=out)


def copy_and_read(x: Array, y: Array, out: Array) -> None:
    np.copyto(out, x)
    np.max(y)


def add_in_pieces(x: Array, y: Array, out: Array, rows: int = 64) -> None:
    """1 MiB at a time: what is written of a huge page is still in the cache in which it was cleared."""
    for i in range(0, len(x), rows):
        np.add(x[i : i + rows], y[i : i + rows], out=out[i : i + rows])


def measure(rounds: int) -> Iterator[tuple[str, dict[str, Times]]]:
    """The times of the kernel and of the ways to stream, into fresh memory and into used memory."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal(SHAPE, dtype=np.float32)
    y = (rng.random(SHAPE, dtype=np.float32) < 0.5).astype(np.float32)
    used = np.zeros_like(x)
    threads = kernel.num_threads()
    edges = np.linspace(0, len(x), threads + 1).astype(int)

    with ThreadPoolExecutor(threads) as pool:

        def fresh() -> Array:
            out = np.empty_like(x)
            advise_huge_pages(out)
            return out

        def stream(way: Callable[[Array, Array, Array], None], place: Callable[[], Array]) -> Callable[[], object]:
            def step() -> None:
                out = place()
                parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
                list(pool.map(lambda part: way(x[part], y[part], out[part]), parts))

            return step

        for name, place in (("fresh", fresh), ("used", lambda: used)):
            ways = {f"stream: {way.__name__}": stream(way, place) for way in (add, add_in_pieces, copy_and_read)}
            yield name, in_turn({KERNEL: lambda place=place: value_and_grad(x, y, out=place()), **ways}, rounds)


def roof(times: dict[str, Times]) -> str:
    """The name of the fastest way to stream."""
    return min((name for name in times if name != KERNEL), key=lambda name: times[name].median)
