"""Reads the instructions of a compiled CUDA kernel, by the tool that Triton brings."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)


JUMP = re.compile(r"\bBRA 0x([0-9a-f]+)")


def tool(name: str) -> Path:
    """A program of CUDA's, such as ptxas; Triton itself is not imported."""
    triton = importlib.util.find_spec("triton")
    if triton is None or not triton.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} comes with Triton: pip install --no-deps triton")
    return Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / name


def instructions(cubin: bytes) -> list[tuple[int, str]]:
    """Returns the place and the text of each, in their order."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool("cuobjdump")), "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(int(place, 16), what) for place, what in INSTRUCTION.findall(text)]


def jump(instruction: str) -> int | None:
    """Returns the place that an instruction jumps to, or None."""
    found = JUMP.search(instruction)
    return int(found[1], 16) if found else None
