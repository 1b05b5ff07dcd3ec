"""docs/torch.md, docs/paddle.md: what they say of a face has the test that they name. Other pages: the examples run."""

from __future__ import annotations

import doctest
import re

import pytest

from tests.processes import ROOT

DOCS = ROOT / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("torch", "paddle")}
FACES = ROOT / "tests" / "faces"


def named(page: str) -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py)::(\w+)` \|$", page, re.MULTILINE)


NAMED = [(name, *test) for name, page in PAGES.items() for test in sorted(set(named(page)))]


@pytest.mark.parametrize("name", PAGES)
def test_every_difference_has_a_test(name: str) -> None:
    section = PAGES[name].partition("## Where it differs from")[2]
    table = section.partition("\n\n|")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    assert len(named("\n".join(rows))) == len(rows) > 20


@pytest.mark.parametrize(("page", "file", "name"), NAMED, ids=[name for *_, name in NAMED])
def test_a_named_test_is_there(page: str, file: str, name: str) -> None:
    assert file.startswith(f"test_{page}_")
    assert f"\ndef {name}(" in (FACES / file).read_text()


@pytest.mark.parametrize("page", ["options", "means", "heads"])
def test_the_examples_of_the_page_run(page: str) -> None:
    failed, tried = doctest.testfile(str(DOCS / f"{page}.md"), module_relative=False)
    assert failed == 0
    assert tried > 3
