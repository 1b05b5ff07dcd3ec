from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.recipes.page import PAGE

VERSIONS = re.findall(r"\| (\w+) (\d+\.\d+\.\d+) \|", PAGE.read_text())


@pytest.mark.parametrize(("library", "tested"), VERSIONS, ids=[library for library, _ in VERSIONS])
def test_the_version_is_the_one_tested(library: str, tested: str) -> None:
    assert version(library) == tested


def test_no_library_is_left_out() -> None:
    assert [library for library, _ in VERSIONS] == ["transformers", "lightning", "timm", "keras", "flax"]


PROGRAMS = re.findall(r"^#+ ([^#\n]+)\n(?:(?!^#+ ).*\n)*?```python\n", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("heading", PROGRAMS)
def test_every_program_is_run(heading: str) -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf'(run|check_switch|program)\("{heading}"', tests)


def test_every_program_is_found() -> None:
    assert len(PROGRAMS) == PAGE.read_text().count("```python\n") == 12
