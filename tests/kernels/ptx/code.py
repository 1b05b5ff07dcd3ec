"""Reads PTX: the instructions of one kernel."""

from __future__ import annotations

import re
from typing import NamedTuple


class Instruction(NamedTuple):
    guard: str  # the predicate without which it does nothing; empty: always
    negated: bool
    name: str
    operands: tuple[str, ...]  # of a vector, each element is one
    text: str


class Kernel(NamedTuple):
    threads: int
    parameters: tuple[tuple[str, int], ...]  # names and sizes in bytes
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
PARAMETER = re.compile(r"\.param \.[usbf](\d+)[^,)]*?(\w+)\s*[,)\n]")
STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
# A place in memory is one operand, as is a name; braces only join registers.
OPERAND = re.compile(r"\[[^]]*\]|[^\s,{}]+")


def read(text: str) -> Kernel:
    text = COMMENT.sub("", text)
    head, body = text.split(".entry", 1)[1].split("{", 1)
    body = body.split("\n}", 1)[0]
    threads = int(re.findall(r"\.reqntid (\d+)", head)[0])
    parameters = tuple((name, int(bits) // 8) for bits, name in PARAMETER.findall(head))
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body.replace(";", "\n").splitlines():
        line = line.strip()
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif line and not line.startswith("."):  # a dot begins what is said to an assembler or a debugger
            found = STATEMENT.fullmatch(line)
            if not found:
                raise SyntaxError(line)
            negated, guard, name, operands = found.groups()
            instructions.append(Instruction(guard or "", bool(negated), name, tuple(OPERAND.findall(operands)), line))
    return Kernel(threads, parameters, tuple(instructions), labels)
