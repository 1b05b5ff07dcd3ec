"""Reads how many threads ``OMP_NUM_THREADS`` asks for, which is the default of the kernel's own pool too.

It is read once, when the kernel is imported, as OpenMP's own runtimes do. A value that a framework sets later is not
the user's wish.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

# Importing Paddle sets the variable to 1 where it is not set. (MindSpore does so too, but not in os.environ.)
_SETS_IT_TO_ONE = "paddle"


def _at_the_start(variable: str) -> bool:
    """Whether the variable was set when the process started; True where the system does not tell."""
    started_with = Path("/proc/self/environ")
    return not started_with.exists() or f"\0{variable}=".encode() in b"\0" + started_with.read_bytes()


def asked_for() -> int:
    """The number asked for, or 0. In a list, which has a number for each level of nesting, the first counts."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    if value == "1" and _SETS_IT_TO_ONE in sys.modules and not _at_the_start("OMP_NUM_THREADS"):
        return 0
    number = re.match(r"\s*\+?0*(\d{1,4})\s*(,|$)", value)
    return int(number[1]) if number else 0
