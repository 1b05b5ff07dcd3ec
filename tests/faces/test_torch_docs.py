"""docs/torch.md: each difference that it names has the test that it names."""

from __future__ import annotations

import re

import pytest

from tests.processes import ROOT

PAGE = ROOT / "docs" / "torch.md"
FACES = ROOT / "tests" / "faces"


ROWS = re.findall(r"`(test_torch_\w+\.py)::(\w+)` \|$", PAGE.read_text(), re.MULTILINE)


def test_every_difference_has_a_test():
    page = PAGE.read_text()
    table = page.partition("## Where it differs from torch")[2].partition("\n\n##")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(ROWS) > 20


@pytest.mark.parametrize(("file", "name"), ROWS, ids=[name for _, name in ROWS])
def test_a_named_test_is_there(file, name):
    assert f"\ndef {name}(" in (FACES / file).read_text()
