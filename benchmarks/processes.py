"""Starts a process for each framework and setting, one after another, and gathers what it measures."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import ROOT, grid
from benchmarks.results import Row

LONGEST = 1200  # seconds that one process may take


def known(argument: str) -> str:
    if argument not in grid.FRAMEWORKS:
        raise argparse.ArgumentTypeError(f"expected of {', '.join(grid.FRAMEWORKS)}")
    return argument


def interpreter(argument: str) -> tuple[str, str]:
    framework, _, python = argument.partition("=")
    if framework not in grid.FRAMEWORKS or not python:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(grid.FRAMEWORKS)}, = and a path")
    return framework, python


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose frameworks and their interpreters."""
    parser.add_argument("frameworks", nargs="*", type=known, help=f"of {', '.join(grid.FRAMEWORKS)}; default all")
    parser.add_argument(
        "--python",
        type=interpreter,
        action="append",
        default=[],
        metavar="FRAMEWORK=PATH",
        help="the interpreter whose environment has that framework; default this one",
    )


@dataclass(frozen=True)
class Failure:
    """Why a process failed, in a line."""

    why: str
    missing: bool  # the framework is not installed; nothing is wrong


def confine(threads: int) -> None:
    """Confines this process to as many cores: the only limit on threads that every framework respects."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def missing(python: str, framework: str) -> str | None:
    """The first package that is missing, found without importing any; None if all are there."""
    peer = {"numpy": "sklearn", "jax": "optax"}.get(framework, framework)
    code = (
        "from importlib.util import find_spec as f;"
        f"print(next((m for m in ['binxent', 'binxent.{framework}', '{framework}', '{peer}'] if f(m) is None), ''))"
    )
    try:
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    absent = done.stdout.strip()
    return f"{absent} is not installed" if absent else None


@dataclass(frozen=True)
class Job:
    label: str
    wanted: dict[str, Any]  # what worker.py reads
    threads: int
    environment: dict[str, str]
    cases: int

    @property
    def framework(self) -> str:
        return str(self.wanted["framework"])


def measure(job: Job, python: str) -> Iterator[list[Row] | Failure]:
    """Yields the rows of each case as they come, and at the end a failure if there was one."""
    if absent := missing(python, job.framework):
        yield Failure(absent, missing=True)
        return
    variables = {"OMP_NUM_THREADS": str(job.threads), "BINXENT_NUM_THREADS": str(job.threads), "GLOG_v": "3"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **variables, **job.environment},
            preexec_fn=lambda: confine(job.threads),
        )
        assert process.stdin
        assert process.stdout
        timer = threading.Timer(LONGEST, process.kill)
        timer.start()
        try:
            with process.stdin:
                json.dump(job.wanted, process.stdin)
            for line in process.stdout:
                yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()  # if the caller has stopped iterating
        if status:
            errors.seek(0)
            last = [line for line in errors.read().splitlines() if line.strip()][-1:] or ["no message"]
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            yield Failure(f"{how}: {last[0][:300]}", missing=False)


def gather(jobs: Sequence[Job], pythons: dict[str, str], console: Console) -> tuple[list[Row], list[str]]:
    """All rows, and a line for each process that failed. A missing framework is reported once."""
    rows: list[Row] = []
    broken: list[str] = []
    absent: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sum(job.cases for job in jobs))
        for job in jobs:
            progress.update(task, description=job.label)
            done = 0
            if job.framework not in absent:
                for found in measure(job, pythons.get(job.framework, sys.executable)):
                    if not isinstance(found, Failure):
                        rows += found
                        done += 1
                        progress.advance(task)
                    elif found.missing:
                        console.print(f"{job.framework}: {found.why}; it is left out", style="yellow")
                        absent.add(job.framework)
                    else:
                        broken.append(f"{job.label}: {found.why}")
                        console.print(broken[-1], style="red")
            progress.advance(task, job.cases - done)
    return rows, broken
