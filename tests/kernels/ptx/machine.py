"""Runs the blocks of a launch, one after the other, and all threads of a block side by side."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.kernels.ptx import instructions
from tests.kernels.ptx.memory import CardError, Epoch, Memory, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.kernels.ptx.code import Instruction, Kernel

Array = Any

SHARED = 1024  # where shared memory begins: an address that was never computed lies outside it


class Machine:
    """The state of one block: registers of its threads, its memory, and where it is."""

    def __init__(self, kernel: Kernel, arguments: dict[str, int], operands: list[Span], shared: int) -> None:
        self.kernel, self.arguments = kernel, arguments
        self.threads = np.arange(kernel.threads)
        self.epoch = Epoch()
        self.memory = Memory(operands, self.epoch)
        self.size_of_shared = shared
        self.steps = [step(instruction, kernel.labels) for instruction in kernel.instructions]

    def run(self, order: Iterable[int], programs: int) -> None:
        with np.errstate(all="ignore"):
            for block in order:
                self._run_block(block, programs)

    def _run_block(self, block: int, programs: int) -> None:
        self.epoch.next_block()
        self.registers: dict[str, Array] = {
            "%tid.x": self.threads.astype(np.uint32),
            "%ctaid.x": np.full(len(self.threads), block, np.uint32),
            "%nctaid.x": np.full(len(self.threads), programs, np.uint32),
            "global_smem": np.full(len(self.threads), SHARED, np.uint64),
        }
        self.shared = Memory([Span(SHARED, np.zeros(self.size_of_shared, np.uint8))], self.epoch)
        place: int | None = 0
        while place is not None and place < len(self.steps):
            try:
                target = self.steps[place](self)
            except CardError as fault:
                raise CardError(f"{fault}: {self.kernel.instructions[place].text} (block {block})") from None
            place = place + 1 if target is None else target

    def uniform(self, predicate: Array) -> bool:
        """What all threads of a block say. Triton makes no code in which they go different ways."""
        if predicate.all() != predicate.any():
            raise CardError("threads go different ways")
        return bool(predicate[0])


def step(instruction: Instruction, labels: dict[str, int]) -> Callable[[Machine], int | None]:
    """The function that executes an instruction, and returns where to go on, or None for the next one."""
    kind = instruction.name.split(".")[0]
    if kind in ("bra", "ret"):
        target = labels[instruction.operands[0]] if kind == "bra" else 2**31
        return functools.partial(_jump, instruction, target)
    return functools.partial(instructions.find(instruction.name), instruction)


def _jump(instruction: Instruction, target: int, machine: Machine) -> int | None:
    if not instruction.guard:
        return target
    return target if machine.uniform(machine.registers[instruction.guard]) != instruction.negated else None
