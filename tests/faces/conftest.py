"""The tests of an absent framework are skipped, and say so, before they import it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

FRAMEWORKS = ("torch", "paddle", "mindspore", "jax")


class Absent(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"{self.path.stem.split('_')[1]} is not installed")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    framework = module_path.stem.split("_")[1]
    if framework in FRAMEWORKS and importlib.util.find_spec(framework) is None:
        return Absent.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def in_float64() -> Iterator[None]:
    """For derivatives, which JAX's own of the definition are compared with: in float64, and compiled without the most
    expensive optimizations of machine code, which take a third of the time of such a test."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
