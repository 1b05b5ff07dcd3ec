"""The example of many labels trains the same model in both ways. It is run on a part of its data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "extreme.py"


def test_both_ways_have_the_same_losses(tmp_path: Path) -> None:
    given = ("--every", "60", "--epochs", "1", "--compared", "6", "--batch", "64")
    done = subprocess.run([sys.executable, PROGRAM, *given], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if "│" in line]
    ours, theirs = (next(row for row in rows if row[1] == way) for way in ("binxent", "torch"))
    assert float(ours[2]) == pytest.approx(float(theirs[2]), rel=1e-4)
    assert int(theirs[3]) == 6 < int(ours[3])
    assert float(ours[4]) > 0.2  # of the names given first, a fifth is right
    assert (tmp_path / "extreme.png").stat().st_size > 10_000
