"""Measures the roof: the time that memory alone takes for the bytes that forward and backward must move.

The kernel reads logits and targets and writes a gradient. Streaming moves the same bytes with next to no arithmetic,
by as many threads, into memory of the same kind: reused from the step before where the gradient's is, else fresh, with
huge pages requested as the kernel requests them. Of the ways to do that, the fastest is the roof.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.timing import Step
from binxent import kernel

Array = np.ndarray[Any, Any]
Stream = Callable[[Array, Array, Array], object]

SMALLEST = 2_097_152  # elements; with fewer, the hand-over between threads would be measured


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
    """Adds 1 MiB at a time, so that a huge page is still in the cache, where it was cleared, when it is written."""
    for i in range(0, len(x), rows):
        np.add(x[i : i + rows], y[i : i + rows], out=out[i : i + rows])


@functools.cache
def threads_of(number: int) -> ThreadPoolExecutor:
    """A pool of threads, which is reused as the kernel's own is."""
    return ThreadPoolExecutor(number)


def fresh_like(x: Array) -> Array:
    out = np.empty_like(x)
    advise_huge_pages(out)
    return out


def kept_like(x: Array) -> Array:
    return kernel.new_bytes(x.nbytes).view(x.dtype).reshape(x.shape)


def stream(way: Stream, x: Array, y: Array, threads: int, *, kept: bool) -> Step:
    edges = np.linspace(0, len(x), threads + 1).astype(int)
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    pool = threads_of(threads)

    def step() -> None:
        out = kept_like(x) if kept else fresh_like(x)
        list(pool.map(lambda part: way(x[part], y[part], out[part]), parts))

    return step


def roof(shape: tuple[int, ...], itemsize: int, threads: int, *, kept: bool) -> Step:
    """The fastest way for operands of this shape. It adds integers, because NumPy is slow to add bfloat16."""
    x, y = (np.ones(shape, f"u{itemsize}") for _ in range(2))

    def seconds(step: Step) -> float:
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
        return min(taken[1:])

    return min((stream(way, x, y, threads, kept=kept) for way in (add, add_in_pieces, copy_and_read)), key=seconds)
