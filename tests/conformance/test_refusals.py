"""Every face refuses what is wrong, with the exception that it promises and a message that helps."""

from __future__ import annotations

import pytest

from tests.conformance.differences import LIBRARIES, Library
from tests.conformance.refusals import NUMBERS, ROWS, Row

libraries = pytest.mark.parametrize(
    "library", [library for library in LIBRARIES if library.missing is None], ids=lambda library: library.name
)


@libraries
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused(row: Row, library: Library) -> None:
    error = row.expected(library)
    for function in row.functions:
        with library.mode:
            if error is None:
                row.call(library, function)
                continue
            with pytest.raises(error, match=row.words):
                row.call(library, function)


@libraries
@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_refused_by_the_classes(row: Row, library: Library) -> None:
    """When they are made, and not when they are called."""
    for kind in (library.face.BCELoss, library.face.BCEWithLogitsLoss):
        with pytest.raises(row.error, match=row.words):
            kind(**row.options)
