"""Collects the facts of the machine, without which a figure says nothing."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from binxent import __version__, kernel


def _first(path: str, key: str) -> str:
    """The value of a key in a file such as /proc/cpuinfo, or an empty text."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _huge_pages() -> str:
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return modes[modes.index("[") + 1 : modes.index("]")]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def facts() -> dict[str, str]:
    memory = _first("/proc/meminfo", "MemTotal")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory size": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "transparent huge pages": _huge_pages(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "Python": sys.version.split()[0],
        "NumPy": np.__version__,
        "binxent": __version__,
        "instruction set": kernel.instruction_set,
    }
