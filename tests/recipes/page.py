"""docs/recipes.md: the programs of each section, and what they were before the switch."""

from __future__ import annotations

import re
import textwrap
from typing import Any, NamedTuple

import numpy as np

from binxent import kernel
from tests import pages
from tests.processes import ROOT

PAGE = ROOT / "docs" / "recipes.md"


def blocks(heading: str, language: str) -> list[str]:
    return pages.blocks(PAGE, heading, language)


def program(heading: str) -> str:
    (code,) = blocks(heading, "python")
    return code


def sides(diff: str) -> tuple[str, str]:
    """What a diff takes away, and what it puts there."""
    lines = diff.splitlines(keepends=True)
    removed, added = ("".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
    return removed, added


def replaced(code: str, old: str, new: str) -> str:
    """Whole lines for whole lines, whatever their indentation."""
    found = re.findall(rf"^( *){re.escape(old.splitlines()[0])}$", code, re.MULTILINE)
    assert len(found) == 1, f"{old!r} is {len(found)} times in the program"
    old, new = (textwrap.indent(text, found[0]) for text in (old, new))
    assert old in code
    return code.replace(old, new)


class Run(NamedTuple):
    names: dict[str, Any]
    losses: list[float]
    kernel_runs: int


def run(code: str) -> Run:
    names: dict[str, Any] = {"__name__": "recipe"}
    before = kernel.runs()
    exec(compile(code, PAGE.name, "exec"), names)
    return Run(names, names["losses"], kernel.runs() - before)


def check_switch(heading: str, *, rtol: float) -> Run:
    """The program trains, on the kernel, as it does with the library's own loss: the diff taken back."""
    code = program(heading)
    removed, added = sides(blocks(heading, "diff")[0])
    ours = run(code)
    own = run(replaced(code, added, removed))
    assert ours.kernel_runs > 0
    assert own.kernel_runs == 0
    assert ours.losses[-1] < 0.9 * ours.losses[0]
    np.testing.assert_allclose(ours.losses, own.losses, rtol=rtol)
    return ours
