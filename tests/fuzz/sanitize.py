"""``python -m tests.fuzz.sanitize``: builds the native code with sanitizers, and attacks that.

``address`` is AddressSanitizer with UndefinedBehaviorSanitizer, ``thread`` is ThreadSanitizer, and ``libfuzzer`` is the
first two in a build of clang's whose inputs libFuzzer chooses. Each runs native.cpp. With ``address`` the extension is
built too, and Python runs on it: the fuzzer of the NumPy face, that of the door, and the tests that are named below.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.fuzz.record import record
from tests.processes import ROOT, environment

HERE = Path(__file__).parent
CLANG = ("clang++", "clang++-14", "clang++-15", "clang++-16", "clang++-19")
FLAGS = {"address": "address,undefined", "thread": "thread", "libfuzzer": "address,undefined"}
NAMES = {
    "address": "AddressSanitizer, UndefinedBehaviorSanitizer",
    "thread": "ThreadSanitizer",
    "libfuzzer": "libFuzzer under AddressSanitizer, UndefinedBehaviorSanitizer",
}
# A leak is looked for elsewhere: Python frees little of what it has at its end.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1 second_deadlock_stack=1",
}
TESTS = (
    "tests/test_sparse.py",
    "tests/test_memory.py",
    "tests/test_kernel.py::test_any_view_is_read_and_written_where_it_lies",
)
MORE_TESTS = (
    "tests/test_report.py",
    "tests/test_ranking.py",
    "tests/test_extremes.py",
    "tests/test_grad_and_hess.py",
    "tests/test_focal_curvature.py",
)
# AddressSanitizer itself takes the addresses that these leave no room for.
NOT_TRIED = ("tests/test_memory.py::test_a_memory_error_says_how_much_was_asked_for",)


class CannotRunError(Exception):
    pass


def compiler(sanitizer: str) -> str | None:
    """The C++ compiler; None where libFuzzer has none."""
    if sanitizer != "libfuzzer":
        return os.environ.get("CXX", "c++")
    return next((name for name in CLANG if shutil.which(name)), None)


def build(sanitizer: str, folder: Path, targets: Sequence[str]) -> None:
    where = subprocess.run([sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True)
    if where.returncode:
        raise CannotRunError("nanobind is missing")
    configure = [
        *("cmake", "-S", HERE, "-B", folder, f"-DCMAKE_CXX_COMPILER={compiler(sanitizer)}"),
        *(f"-Dnanobind_DIR={where.stdout.strip()}", f"-DPython_EXECUTABLE={sys.executable}"),
        *(f"-DBINXENT_SANITIZE={FLAGS[sanitizer]}", f"-DBINXENT_LIBFUZZER={sanitizer == 'libfuzzer'}"),
    ]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "--target", *targets]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment(CMAKE_GENERATOR="Ninja"))
        if done.returncode:
            raise CannotRunError(f"no build for {sanitizer}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def package(folder: Path) -> Path:
    """A folder for PYTHONPATH, with the package around the extension that was built."""
    (extension,) = (folder / "extension").glob("_native*.so")
    to = folder / "python"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "binxent", to / "binxent")
    shutil.copy(extension, to / "binxent")
    return to


def preloaded(library: str) -> str:
    return subprocess.run(
        [str(compiler("address")), f"-print-file-name={library}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def python(folder: Path) -> tuple[list[str], Mapping[str, str]]:
    """Python on the extension that was built: the sanitizer's library must be loaded before all others."""
    libraries = f"{preloaded('libasan.so')} {preloaded('libstdc++.so.6')}"
    return [sys.executable, "-m"], {"PYTHONPATH": str(package(folder)), "LD_PRELOAD": libraries}


def attacks(
    sanitizer: str, folder: Path, given: argparse.Namespace
) -> Iterator[tuple[str, int, Sequence[str], Mapping[str, str]]]:
    """What is attacked, how many calls that are, the command, and its variables."""
    driver = str(folder / "native")
    if sanitizer == "libfuzzer":
        seconds = f"-max_total_time={given.seconds:.0f}"
        yield (
            "native core",
            0,
            [driver, f"-seed={given.seed + 1}", seconds, "-max_len=1280", "-print_final_stats=1"],
            {},
        )
        return
    callers = 4
    each = max(1, given.count // (10 if sanitizer == "thread" else 1) // callers)
    # Where the system scatters addresses widely, ThreadSanitizer finds no room for its own.
    start = ["setarch", platform.machine(), "-R"] if sanitizer == "thread" and shutil.which("setarch") else []
    yield "native core", each * callers, [*start, driver, str(given.seed), str(each), str(callers)], {}
    if sanitizer == "address":
        run, variables = python(folder)
        seed, count = f"--seed={given.seed}", str(given.count)
        yield "NumPy face", given.count, [*run, "tests.fuzz", "numpy", seed, "--count", count], variables
        yield "door", given.count, [*run, "tests.fuzz.door", seed, "--count", count], variables
        tests = [*TESTS, *(MORE_TESTS if given.long else ()), *(f"--deselect={test}" for test in NOT_TRIED)]
        yield "native tests", 0, [*run, "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], variables


def counted(output: str) -> int:
    """How many inputs libFuzzer has run, or tests pytest."""
    words = output.replace("stat::number_of_executed_units:", "executed").split()
    for before, after in itertools.pairwise(words):
        if before == "executed":
            return int(after)
        if after.startswith("passed"):
            return int(before)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sanitize", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sanitizers", nargs="*", default=["address", "thread"], help="address, thread, libfuzzer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=400, help="calls of each kind; a tenth of them for thread")
    parser.add_argument("--seconds", type=float, default=30, help="how long libFuzzer runs")
    parser.add_argument("--long", action="store_true", help="run more of the tests")
    parser.add_argument("--build", type=Path, help="a folder for the builds, which are kept")
    parser.add_argument("--record", action="store_true", help="write the counts into benchmarks/results/attacks.csv")
    given = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        for sanitizer in given.sanitizers:
            if compiler(sanitizer) is None:
                print(f"{sanitizer}: not run, there is no clang")
                continue
            folder = (given.build or Path(temporary)) / sanitizer
            build(sanitizer, folder, ["native", "_native"] if sanitizer == "address" else ["native"])
            for what, calls, command, variables in attacks(sanitizer, folder, given):
                began = time.monotonic()
                done = subprocess.run(
                    command, capture_output=True, text=True, cwd=ROOT, env=environment(**OPTIONS, **variables)
                )
                output = done.stdout + done.stderr
                wrong += done.returncode != 0
                calls = calls or counted(output)
                seconds = time.monotonic() - began
                print(f"{sanitizer}: {what}: {calls} calls, {seconds:.0f} s, {'FAULT' if done.returncode else 'clean'}")
                if done.returncode:
                    print(output[-6000:])
                if given.record:
                    record(
                        NAMES[sanitizer],
                        what,
                        calls=calls,
                        wrong=int(done.returncode != 0),
                        seconds=seconds,
                        how=f"seed {given.seed}",
                    )
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotRunError as reason:
        sys.exit(str(reason))
