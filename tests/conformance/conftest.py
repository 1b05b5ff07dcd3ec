from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import processes


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[..., str]:
    """Runs a program, given in pieces that are indented each in its own way, in a process of its own.

    It lies in a file, since MindSpore compiles a graph from the source of its functions, and runs where that may write
    what it has to say of a failure.
    """

    def run_program(*pieces: str, timeout: float = 300, **settings: Any) -> str:
        (tmp_path / "program.py").write_text("\n".join(map(textwrap.dedent, pieces)))
        start = f"""
            import os, runpy, sys
            sys.path[0] = os.getcwd()
            os.chdir({str(tmp_path)!r})
            runpy.run_path("program.py")
        """
        return processes.python(start, timeout=timeout, **settings)

    return run_program
