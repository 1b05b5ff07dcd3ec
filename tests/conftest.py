from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from binxent import kernel
from tests.conformance.differences import Library
from tests.conformance.faces import FACES, Face
from tests.conformance.faults import Program
from tests.conformance.modes import Mode

# No deadline: the first call of a process makes the pool, and the machine may be busy.
hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--face", help="of what is asked of every face alike, ask this one alone")


def pytest_report_header() -> str:
    return "faces: " + ", ".join(f"{face.name}{'' if face.available else ' (not installed)'}" for face in FACES)


def faces_of(item: pytest.Item) -> set[str]:
    """The faces that a test's parameters name; none if it is not asked of every face alike."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    names = {str(parameters[name]) for name in ("face", "framework") if isinstance(parameters.get(name), str)}
    names |= {value.name for value in parameters.values() if isinstance(value, (Face, Library))}
    names |= {value.face for value in parameters.values() if isinstance(value, Mode)}
    return names | {value.framework for value in parameters.values() if isinstance(value, Program)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--face")
    if asked is None:
        return
    kept, others = [], []
    for item in items:
        (kept if faces_of(item) <= {asked} else others).append(item)
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
