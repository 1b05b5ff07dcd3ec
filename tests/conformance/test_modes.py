from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.modes import MODES, Mode, table


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.face}: {mode.name}")
def test_route(mode: Mode) -> None:
    if not mode.available:
        pytest.skip(f"{mode.face} is not installed")
    assert mode.taken() == mode.route


def test_the_documentation_has_this_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "modes.md"
    assert table() in page.read_text(), "run python -m tests.conformance.modes and paste what it prints"
