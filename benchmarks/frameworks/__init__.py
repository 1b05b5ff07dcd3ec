"""The frameworks, one file each: their own losses and ours, as steps to time and as functions of NumPy arrays.

Each module has the names of ``Framework``, and is imported in a process of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from benchmarks.grid import Case
from benchmarks.timing import Step

Array = np.ndarray[Any, Any]
Loss = Callable[..., Any]
Evaluate = Callable[[Array, Array, str], tuple[Array, Array]]

OURS = "binxent"


@dataclass(frozen=True)
class Way:
    step: Step
    against: str = OURS  # the way of ours that it is compared with


class Framework(Protocol):
    PACKAGES: tuple[str, ...]  # packages whose versions are written down
    DTYPES: tuple[str, ...]  # dtypes in which arrays can be handed over
    MEMORY_KEPT_BY: str  # who reuses the memory of a large gradient for the next step's; empty if nobody does

    def ways(self, case: Case) -> dict[str, Way]:
        """One step of the case for ours and for each other loss."""
        ...

    def evaluations(self, probabilities: bool) -> dict[str, Evaluate]:
        """Functions of input, target and reduction that return the loss and the gradient of its sum."""
        ...


def load(name: str) -> Framework:
    return cast("Framework", importlib.import_module(f"benchmarks.frameworks.{name}"))


def operands(case: Case) -> tuple[Array, Array, dict[str, Array]]:
    """Logits, hard targets, and the case's option: float32, and a mask in bool."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal(case.shape, dtype=np.float32)
    y = (rng.random(case.shape, dtype=np.float32) < 0.3).astype(np.float32)
    match case.options:
        case "plain":
            return x, y, {}
        case "mask":
            return x, y, {"mask": rng.random(case.shape, dtype=np.float32) < 0.8}
        case name:
            return x, y, {name: rng.uniform(1, 5, case.shape[-1:]).astype(np.float32)}


def refusal(error: Exception) -> str:
    """The first line of the error's message that is not empty or a rule."""
    lines = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next((line for line in lines if line.strip('- ')), 'no message')[:200]}"


def masked(loss: Loss) -> Loss:
    """The mean over the kept elements, as a user writes it where the loss has no mask."""

    def mean(x: Any, target: Any, mask: Any, **options: Any) -> Any:
        return (loss(x, target, reduction="none", **options) * mask).sum() / mask.sum()

    return mean
