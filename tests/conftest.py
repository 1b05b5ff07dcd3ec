from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from binxent import kernel
from tests.conformance.faces import FACES, Face

# No deadline: the first call of a process makes the pool, and the machine may be busy.
hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--face", help="of what is asked of every face alike, ask this one alone")


def pytest_report_header() -> str:
    return "faces: " + ", ".join(f"{face.name}{'' if face.available else ' (not installed)'}" for face in FACES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--face")
    if asked is None:
        return
    kept, others = [], []
    for item in items:
        face = item.callspec.params.get("face") if hasattr(item, "callspec") else None
        (others if isinstance(face, Face) and face.name != asked else kept).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


@pytest.fixture
def any_threads() -> Iterator[None]:
    """For tests that change the number of threads: it is put back."""
    yield
    kernel.set_num_threads(0)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in the folder of the test, and gives exit code, stdout and stderr."""
    from binxent.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *capsys.readouterr())

    return call
