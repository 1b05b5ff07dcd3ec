"""Makes allocations of the kernel's own fail, in a process that has loaded failing_allocations.cpp before all else."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import platform
import re
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binxent import kernel
from tests.reference import bits

Array = np.ndarray[Any, Any]
Results = Sequence[Array]

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
WHY_NOT = (
    "it stands in for glibc's functions"
    if platform.libc_ver()[0] != "glibc"
    else "there is no C++ compiler"
    if COMPILER is None
    else ""
)


def build(folder: Path) -> str:
    """The library's path, for LD_PRELOAD."""
    source, library = Path(__file__).with_name("failing_allocations.cpp"), folder / "failing_allocations.so"
    assert COMPILER
    subprocess.run([COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return str(library)


def switches() -> ctypes.CDLL:
    switch = ctypes.CDLL(None)
    switch.fail_at.argtypes = [ctypes.c_long, ctypes.c_bool, ctypes.c_size_t, ctypes.c_size_t]
    switch.start_no_threads.argtypes = [ctypes.c_bool]
    return switch


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    switch = switches()
    switch.start_no_threads(True)
    try:
        yield
    finally:
        switch.start_no_threads(False)


def kernel_addresses() -> tuple[int, int]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    edges = [int(edge, 16) for line in maps if kernel.library in line for edge in line.split()[0].split("-")]
    return min(edges), max(edges)


def is_refusal(error: BaseException) -> bool:
    """Whether it says how much was asked for."""
    return isinstance(error, MemoryError) and re.search(r"\d+ bytes", str(error)) is not None


def _attempt(
    compute: Callable[[], Results],
    wanted: Results,
    n: int,
    all_later: bool,
    is_refusal: Callable[[BaseException], bool],
) -> tuple[bool, bool]:
    """Whether an allocation failed, and whether the call was refused for it."""
    switch, addresses, refused = switches(), kernel_addresses(), None
    kernel.release_memory()
    switch.fail_at(n, all_later, *addresses)
    try:
        results = compute()
    except Exception as error:
        refused = error
    failed = switch.stop_failing() > 0
    if refused:
        assert is_refusal(refused), f"{type(refused).__name__}: {refused}"
        assert failed, f"nothing failed, but: {refused}"
        results = compute()
    for given in (results, compute()):
        for result, right in zip(given, wanted, strict=True):
            np.testing.assert_array_equal(bits(result), right)
    return failed, refused is not None


def _in_a_child(attempt: Callable[[], tuple[bool, bool]]) -> tuple[bool, bool]:
    child = os.fork()
    if child == 0:
        status = 4
        try:
            failed, refused = attempt()
            status = failed + 2 * refused
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 0 <= status < 4, status
    return bool(status & 1), bool(status & 2)


def check(
    compute: Callable[[], Results],
    is_refusal: Callable[[BaseException], bool] = is_refusal,
    *,
    in_children: bool = False,
) -> int:
    """Makes each allocation of `compute` fail, alone and with all later ones. Returns how many times it was refused.

    Either it is refused, or it gives the right bits; and afterwards, with memory again, it gives the right bits. In a
    child of its own, each attempt finds no thread of the pool, and starts them anew.
    """
    wanted = [bits(result).copy() for result in compute()]
    refusals = 0
    for all_later in (False, True):
        for n in itertools.count(1):
            attempt = functools.partial(_attempt, compute, wanted, n, all_later, is_refusal)
            failed, refused = _in_a_child(attempt) if in_children else attempt()
            refusals += refused
            if not failed:
                break
    return refusals
