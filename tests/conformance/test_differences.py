"""docs/differences.md: each cell is what the face does, and each face does as its framework where the page says so."""

from __future__ import annotations

import pytest

from tests.conformance.differences import LIBRARIES, PAGE, PARTS, Library, Part, Row, cells

KNOWN = cells(PAGE.read_text())
EVERY = [pytest.param(part, row, id=f"{part.title}: {row.name}") for part in PARTS for row in part.rows]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
@pytest.mark.parametrize(("part", "row"), EVERY)
def test_the_cell_is_what_the_face_does(part: Part, row: Row, library: Library) -> None:
    if library.missing:
        pytest.skip(library.missing)
    assert KNOWN[part.title, row.heading, library.name] == row.cell(library)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
@pytest.mark.parametrize("row", [row for part in PARTS for row in part.rows if row.follows], ids=lambda row: row.name)
def test_the_face_does_as_its_framework(row: Row, library: Library) -> None:
    if library.missing:
        pytest.skip(library.missing)
    if library.own is None:
        pytest.skip(f"{library.name} has no loss of its own")
    ours, theirs = row.outcome(library, library.face), row.outcome(library, library.own)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
    else:
        assert issubclass(ours, theirs)


def test_the_page_has_every_cell_and_no_other() -> None:
    named = {(part.title, row.heading, library.name) for part in PARTS for row in part.rows for library in LIBRARIES}
    assert set(KNOWN) == named
    assert all(KNOWN.values())
