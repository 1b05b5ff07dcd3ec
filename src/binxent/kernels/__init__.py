"""What a kernel is: one pass over memory that computes the loss of a call, its gradient, or both.

A kernel knows bytes, not frameworks. Every kernel keeps these promises, which ``tests/kernels/test_contract.py`` asks
of all of them:

- ``compute`` reads each operand once, and ``measure`` is a pass of its own.
- The incoming gradient and the divisor become one factor, and a result is rounded once.
- What is ignored adds 0 to every sum and every gradient, whatever it holds.
- It returns flags and raises nothing but MemoryError.
- Nothing of the operands' size is allocated but the outputs, and those by the caller.
- The same bits come out for any number of threads, any layout and any split into blocks. Between two kernels the bits
  may differ, within the table of ulp.

A new kernel is one file here, and one row in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from binxent.call import Call, Operands


class Outputs(NamedTuple):
    """Where the results are written. What is None is not computed."""

    elements: Any = None  # the loss of each element
    total: Any = None  # one number: the sum of the losses, divided
    gradient: Any = None  # to the input; it may be the input itself


class Kernel(Protocol):
    name: str
    device: str

    def reads(self, operands: Operands) -> bool:
        """Whether it can compute a call of these operands. It is cheap and never raises; else the definition does.

        A kernel that needs a learnt option or a normalizer as a number answers no where it is an operand.
        """

    def measure(self, call: Call, operands: Operands) -> Any:
        """What the divisor counts: the kept elements, or the sum of their weights. It is additive over shards."""

    def compute(
        self,
        call: Call,
        operands: Operands,
        outputs: Outputs,
        *,
        divisor: Any = None,
        incoming: Any = 1.0,
        executor: int = 0,
    ) -> int:
        """Write the outputs; return flags.

        ``divisor`` is what ``measure`` returned or another number, or None for the call's own. ``incoming`` is the
        gradient that comes in: a number or, where the reduction is none and the gradient the only output, an operand
        with one for each element. Each may be given by its name; a face that knows its kernel may give them in order.
        """
