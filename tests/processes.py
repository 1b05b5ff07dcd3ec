"""Python in a process of its own, for what cannot be tested in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment(**variables: str | None) -> dict[str, str]:
    """This process's own, changed; None takes a variable away."""
    changed = {**os.environ, **variables}
    return {name: value for name, value in changed.items() if value is not None}


def python(code: str, *, timeout: float = 60, **variables: str | None) -> str:
    """What the code prints; it must end well, and in time."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=environment(**variables),
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def run_module(name: str, *arguments: str, timeout: float = 300, **variables: str | None) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", name, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=environment(**variables),
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
