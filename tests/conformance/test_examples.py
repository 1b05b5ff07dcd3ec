"""The examples train the same small model in each framework: all end at the same loss."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMEWORKS = [path.stem.removeprefix("train_") for path in sorted(EXAMPLES.glob("train_*.py"))]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")


# torch ends so in one of twenty runs on a busy machine, with its own loss too: at the exit, after its process groups.
ABORTED = "terminate called without an active exception"


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The end of a program, which is run again if torch aborted it when it had done its work."""
    for _ in range(5):
        done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=300)
        if ABORTED not in done.stderr:
            break
    return done


def losses(name: str, *launcher: str) -> list[float]:
    """What an example prints. It runs in the examples' folder, so that it imports the installed package."""
    done = finished([sys.executable, *launcher, f"{name}.py"])
    assert done.returncode == 0, done.stderr
    words = done.stdout.replace(",", "").split()
    assert words[::2] == ["training", "test"]
    return [float(word) for word in words[1::2]]


@pytest.fixture(scope="module")
def in_numpy() -> list[float]:
    return losses("train_numpy")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_same_losses(framework: str, in_numpy: list[float]) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    assert losses(f"train_{framework}") == pytest.approx(in_numpy, abs=2e-5)
    assert in_numpy[0] < 0.35  # from 0.69·(1 + pos_weight)/2 and more


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_as_one(processes: int, in_numpy: list[float]) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    assert losses("distributed", *launcher) == pytest.approx(in_numpy, abs=2e-5)
