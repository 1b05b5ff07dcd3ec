"""Starts a process for each framework and setting, one after the other, and gathers what they measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import ROOT
from benchmarks.results import Row

LONGEST = 1200  # seconds that one process may take


@dataclass(frozen=True)
class Failure:
    """A process that did not end well, in a line."""

    why: str
    missing: bool  # the framework is not installed; nothing is wrong


def confine(threads: int) -> None:
    """To as many cores: the only limit on threads that every framework respects."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def missing(python: str, framework: str) -> str | None:
    """Which package is not there, without importing any."""
    peer = {"numpy": "sklearn", "jax": "optax"}.get(framework, framework)
    code = (
        "from importlib.util import find_spec as f;"
        f"print(next((m for m in ['binxent', 'binxent.{framework}', '{framework}', '{peer}'] if f(m) is None), ''))"
    )
    try:
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return done.stdout.strip() or (done.stderr.strip().splitlines() or [None])[-1]


def measure(
    wanted: dict[str, Any], *, python: str = sys.executable, threads: int, environment: dict[str, str]
) -> Iterator[list[Row] | Failure]:
    """The rows of each case, as they come; last, a failure if there was one."""
    if absent := missing(python, wanted["framework"]):
        yield Failure(f"{absent} is not installed", missing=True)
        return
    variables = {"OMP_NUM_THREADS": str(threads), "BINXENT_NUM_THREADS": str(threads), "GLOG_v": "3"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **variables, **environment},
            preexec_fn=lambda: confine(threads),
        )
        assert process.stdin and process.stdout
        timer = threading.Timer(LONGEST, process.kill)
        timer.start()
        try:
            with process.stdin:
                json.dump(wanted, process.stdin)
            for line in process.stdout:
                yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()  # where the caller has gone away
        if status:
            errors.seek(0)
            last = [line for line in errors.read().splitlines() if line.strip()][-1:] or ["no message"]
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            yield Failure(f"{how}: {last[0][:300]}", missing=False)
