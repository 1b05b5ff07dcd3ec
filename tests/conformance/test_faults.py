"""docs/faults.md: each program of an installed framework prints what the page says."""

from __future__ import annotations

import pytest

from tests.conformance.faults import PAGE, SECTIONS, Program, programs

PROGRAMS = programs(PAGE.read_text())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.framework}: {program.name}")
def test_the_program_prints_what_the_page_says(program: Program) -> None:
    if reason := program.why_not():
        pytest.skip(reason)
    assert program.run() == program.printed


def test_the_page_has_programs_of_every_framework() -> None:
    assert {program.framework for program in PROGRAMS} == set(SECTIONS.values())
    assert all(program.code and program.printed for program in PROGRAMS)


def test_the_table_names_every_program() -> None:
    listed = PAGE.read_text().partition("## ")[0].lower()
    for program in PROGRAMS:
        assert f"[{program.name.lower()}](#" in listed
