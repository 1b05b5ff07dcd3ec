"""The most memory that a step has beyond what was there before it, as the system sees it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from benchmarks.timing import Step
from binxent import kernel


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def extra(small: Step, large: Step) -> int:
    """Bytes. ``small`` does the same with few elements: what is loaded or compiled once is not counted.

    The second of two large steps is looked at, from where memory stood before the first: what a framework compiles for
    a shape comes before, and what it keeps in a pool of its own is counted all the same.
    """
    small()
    small()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    kernel.release_memory()
    before = _status("VmRSS")
    large()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    large()
    return max(0, _status("VmHWM") - before)
