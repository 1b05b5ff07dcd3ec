from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from tests.recipes.page import PAGE

VERSIONS = re.findall(r"\| (\w+) (\d+\.\d+\.\d+) \|", PAGE.read_text())


@pytest.mark.parametrize(("library", "tested"), VERSIONS, ids=[library for library, _ in VERSIONS])
def test_the_version_is_the_one_tested(library: str, tested: str) -> None:
    assert version(library) == tested


def test_no_library_is_left_out() -> None:
    assert [library for library, _ in VERSIONS] == ["transformers", "lightning", "timm", "keras", "flax"]
