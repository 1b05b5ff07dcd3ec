"""What the build refuses: in one line, which says what is missing and how to install without it.

These tests need cmake, ninja, nanobind and g++; ``nox -s builds`` has them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def refusal(folder: Path, *flags: str, **variables: str) -> str:
    """The line by which CMake refuses to configure; nothing else of binxent's, and no language was tried before."""
    asked = ["cmake", "-GNinja", "-S", str(ROOT), "-B", str(folder / "build"), *flags]
    done = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, "CXX": "g++", **variables})
    assert done.returncode != 0, done.stdout
    (line,) = (line.strip() for line in done.stderr.splitlines() if line.strip().startswith("binxent:"))
    assert done.stderr.count("CMake Error") == 1, done.stderr
    assert "BINXENT_PURE=1" in line
    return line


@pytest.mark.parametrize("flag", ["-mfpmath=387", "-m32"])
def test_x87_arithmetic_is_refused(tmp_path: Path, flag: str) -> None:
    assert "FLT_EVAL_METHOD is not 0" in refusal(tmp_path, f"-DCMAKE_CXX_FLAGS={flag}")


@pytest.mark.parametrize(
    ("macros", "named"),
    [
        ("-U__GNUC__ -D__GNUC__=10", "(GNU 10."),
        ("-D__INTEL_COMPILER=2021", "( )"),  # CMake runs such a compiler with flags that g++ does not know
    ],
)
def test_an_old_or_another_compiler_is_refused(tmp_path: Path, macros: str, named: str) -> None:
    """A g++ that CMake takes for another compiler, by the macros that it goes by."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec g++ {macros} "$@"\n')
    compiler.chmod(0o755)
    line = refusal(tmp_path, CXX=str(compiler))
    assert f"the compiler {compiler} {named}" in line
    assert "expected gcc 11 or clang 14 or newer" in line


def test_no_compiler_is_refused(tmp_path: Path) -> None:
    for program in ("cmake", "ninja"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    line = refusal(tmp_path, PATH=str(tmp_path), CXX="")
    assert "no C++ compiler is found" in line
