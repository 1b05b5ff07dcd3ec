"""The programs of docs/faults.md, and what the page says that they print.

``python -m tests.conformance.faults`` runs those of the installed frameworks and writes what they print into the page.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
SECTIONS = {"PyTorch": "torch", "PaddlePaddle": "paddle", "MindSpore": "mindspore", "JAX": "jax"}

# What a shell says of a process that a signal ended.
ENDS = {signal.SIGABRT: "Aborted", signal.SIGSEGV: "Segmentation fault"}

HEADING = re.compile(r"^(##|###) (.+)$")
GIBIBYTES = re.compile(r"<!-- memory: (\d+) GiB -->")


def available_gibibytes() -> int:
    return int(re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[0]) >> 20


@dataclass
class Program:
    framework: str
    name: str
    gibibytes: int = 0  # of memory that it needs
    code: str = ""
    printed: str = ""

    def why_not(self) -> str | None:
        for package in (self.framework, f"binxent.{self.framework}", *["optax"] * (self.framework == "jax")):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        if self.gibibytes and (free := available_gibibytes()) < self.gibibytes:
            return f"it needs {self.gibibytes} GiB of memory, and {free} are available"
        return None

    def run(self) -> str:
        done = subprocess.run([sys.executable, "-c", self.code], capture_output=True, text=True, timeout=300)
        end = f"{ENDS[signal.Signals(-done.returncode)]}\n" if -done.returncode in ENDS else ""
        assert end or done.returncode == 0, done.stderr
        shown = done.stdout.partition("\n\n")[0]  # Paddle lays its own end out at length
        return shown.rstrip("\n") + "\n" + end


def programs(page: str) -> list[Program]:
    found: list[Program] = []
    section = name = fence = ""
    gibibytes = 0
    for line in page.splitlines(keepends=True):
        if heading := HEADING.match(line):
            section, name = (heading[2], "") if heading[1] == "##" else (section, heading[2])
        elif memory := GIBIBYTES.match(line):
            gibibytes = int(memory[1])
        elif line.startswith("```"):
            fence = "" if fence else line[3:].strip()
            if fence == "python":
                found.append(Program(SECTIONS[section], name, gibibytes))
                gibibytes = 0
        elif fence == "python":
            found[-1].code += line
        elif fence == "text":
            found[-1].printed += line
    return found


def main() -> None:
    page = PAGE.read_text()
    for program in programs(page):
        if reason := program.why_not():
            print(f"{program.framework}: {program.name}: left as it is: {reason}")
            continue
        printed = program.run()
        print(f"{program.framework}: {program.name}\n{printed}")
        block = f"```python\n{program.code}```\n"
        old = f"{block}\n```text\n{program.printed}```\n" if program.printed else block
        page = page.replace(old, f"{block}\n```text\n{printed}```\n")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
