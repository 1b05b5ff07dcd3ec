"""Defines what a kernel is: one pass over memory that computes the loss of a call, its gradient, or both.

A kernel knows bytes, not frameworks. Every kernel fulfils this contract, which ``tests/kernels/test_contract.py``
checks for all of them:

- ``compute`` reads each operand once, and ``measure`` is a pass of its own.
- The incoming gradient and the divisor become one factor, and a result is rounded once.
- What is ignored adds 0 to every sum and every gradient, whatever it holds.
- It returns flags and raises nothing but MemoryError.
- It allocates nothing of the operands' size; the caller allocates the outputs.
- A target may be ``SparseRows``, of which no dense array is made, and gives the bits of a dense target of the input's
  dtype, or of its values'.
- The same bits come out for any number of threads, any layout and any split into blocks. Between two kernels the bits
  may differ, within the table of ulp.

A new kernel is one file or folder here, and one row in the tests.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from binxent.call import Call, Operands

NAMES = ("native", "triton")

# Whether the native library was built. BINXENT_PURE=1 builds none, and then the definition computes what it can.
IS_BUILT = find_spec("binxent._native") is not None

# The dtypes that every kernel reads.
READABLE = frozenset(("float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64"))


class MissingKernelError(RuntimeError):
    """Something was asked for that only the native kernel computes, and this installation has none."""

    def __init__(self, what: str) -> None:
        built = "this installation was built without it (BINXENT_PURE=1)"
        super().__init__(f"{what} needs the native kernel, and {built}; build with g++ 11 or clang++ 14, or newer")


def is_chosen(name: str) -> bool:
    """Whether ``BINXENT_KERNELS`` names this kernel: without that variable, every kernel that was built is chosen.

    The names are separated by commas; an empty value chooses none, and the definition computes everything.
    """
    is_there = IS_BUILT or name != "native"
    value = os.environ.get("BINXENT_KERNELS")
    if value is None:
        return is_there
    chosen = [word.strip() for word in value.split(",") if word.strip()]
    for word in chosen:
        if word not in NAMES:
            raise ValueError(f"BINXENT_KERNELS: {word!r} is no kernel; expected some of {', '.join(NAMES)}, or nothing")
    return is_there and name in chosen


class Outputs(NamedTuple):
    """Where the results are written. An output that is None is not computed."""

    elements: Any = None  # the loss of each element
    total: Any = None  # one number: the sum of the losses, divided
    gradient: Any = None  # with respect to the input, whose memory it may share
    hessian: Any = None  # the second derivative by each logit, scaled like the gradient, beside which it is written
    expected_hessian: Any = None  # likewise, but of the focal loss the one that is never negative; one of the two


class Kernel(Protocol):
    name: str
    device: str
    writes: frozenset[str]  # the fields of Outputs that it can write; any other must be None

    def reads(self, operands: Operands) -> bool:
        """Whether the kernel can compute a call of these operands; if not, the definition does. Cheap, never raises.

        A kernel that needs a learnt option or a normalizer as a number answers no where it is an operand.
        """

    def measure(self, call: Call, operands: Operands) -> Any:
        """What the divisor counts: the kept elements, or the sum of their weights. Those of shards are added."""

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
        """Writes the outputs; returns flags.

        ``divisor`` is what ``measure`` returned or another number, or None for the call's own. ``incoming`` is the
        gradient that comes in: a number or, where the reduction is none and the gradient the only output, an operand
        with one for each element. Each may be given by its name; a face that knows its kernel may give them in order.
        """
