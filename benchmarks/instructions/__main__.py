"""``python -m benchmarks.instructions``: counts the instructions per element of the AVX2 kernel, by callgrind.

A count does not depend on the machine's load, so a change that makes the kernel slower cannot hide in noise. It does
depend on the compiler, so counts are compared only with the figures in counts.csv of the same compiler. A count that is
more than 3 % above its figure is a failure; an intended one is committed with ``--write``. callgrind knows no AVX-512.

Fewer instructions may be a fault too: each loop, of every instruction set, must still prefetch the memory ahead of it.

Exit codes: 0; 1 if a count has risen or a loop does not prefetch; 3 if nothing could be compared.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.instructions.counts import COUNTS, Counts, committed, risen, write

HERE = Path(__file__).parent
ELEMENTS = 16_384
FEW, MANY = 1, 3  # calls; in the difference of their counts the start cancels out
NOT_CHECKED = 3


class CannotCountError(Exception):
    pass


def build(folder: Path) -> tuple[Path, str]:
    """Builds the driver; returns its path, and the compiler that was used."""
    where = subprocess.run([sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True)
    if where.returncode:
        raise CannotCountError("nanobind is missing")
    nanobind = where.stdout.strip()
    configure = [
        "cmake",
        "-S",
        HERE,
        "-B",
        folder,
        f"-Dnanobind_DIR={nanobind}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    for command in (configure, ["cmake", "--build", folder, "--target", "driver", "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CannotCountError(f"the driver does not build:\n{done.stdout}{done.stderr}")
    return folder / "driver", (folder / "compiler").read_text().strip()


def collected(callgrind: str) -> int:
    """The number of instructions in callgrind's output."""
    found = re.search(r"Collected : (\d+)", callgrind)
    if not found:
        raise CannotCountError(f"callgrind says nothing of what it collected:\n{callgrind}")
    return int(found[1])


def instructions(driver: Path, case: str, times: int) -> int:
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", driver, case, str(ELEMENTS), str(times)],
        capture_output=True,
        text=True,
        env={**os.environ, "BINXENT_ISA": "avx2", "BINXENT_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise CannotCountError(done.stderr.strip())
    return collected(done.stderr)


def count(driver: Path) -> Counts:
    cases = subprocess.run([driver], check=True, capture_output=True, text=True).stdout.splitlines()
    return {
        case: (instructions(driver, case, MANY) - instructions(driver, case, FEW)) / ((MANY - FEW) * ELEMENTS)
        for case in cases
    }


def without_requests(disassembly: str) -> list[str]:
    """The functions with a loop over a tile that do not prefetch."""
    functions = re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)+)", disassembly, re.MULTILINE)
    loops = {name: code for name, code in functions if re.search(r"::(logits|probabilities|focal)_tile<", name)}
    if not loops:
        raise CannotCountError("the driver has no loop over a tile by the names that are known")
    return [name for name, code in loops.items() if "prefetch" not in code]


def disassembly(driver: Path) -> str:
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", driver]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="write the counts to counts.csv, to compare with")
    options = parser.parse_args(arguments)
    for program in ("valgrind", "cmake", "objdump"):
        if not shutil.which(program):
            print(f"not checked: {program} is missing")
            return NOT_CHECKED
    try:
        with tempfile.TemporaryDirectory() as folder:
            driver, compiler = build(Path(folder))
            counts = count(driver)
            silent = without_requests(disassembly(driver))
    except CannotCountError as error:
        print(f"not checked: {error}")
        return NOT_CHECKED

    before = committed(compiler)
    print(f"instructions per element, AVX2, {compiler}")
    for case, n in counts.items():
        print(f"{case:24} {n:8.3f}" + (f"  {n / before[case] - 1:+.2%}" if case in before else ""))
    if options.write:
        write(compiler, counts)
        return 0
    if not before:
        print(f"not checked: {COUNTS.name} has no figures of {compiler}")
        return NOT_CHECKED
    failures = [f"risen: {line}" for line in risen(counts, before)]
    failures += [f"asks for no memory ahead: {name}" for name in silent]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
