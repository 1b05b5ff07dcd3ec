"""Measures the peak memory of a step beyond what was in use before it, as the system counts it."""

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
    """The extra memory in bytes. ``small`` is the step with few elements: it loads and compiles what is needed once.

    The peak is that of the second of two large steps, above the memory in use before the first. What a framework
    compiles for a shape is thus left out, and what it holds in a pool of its own is counted.
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
