"""Measures how long ``import binxent`` takes, above Python's own start."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import Rounds, Step, Times, in_turn


def start(code: str) -> Step:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def measure(rounds: Rounds) -> dict[str, Times]:
    return in_turn({"plain Python": start("pass"), "import binxent": start("import binxent")}, rounds)
