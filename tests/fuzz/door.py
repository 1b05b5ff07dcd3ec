"""``python -m tests.fuzz.door``: the native module's functions, called with what nobody should call them with.

An argument is often right, and otherwise of another type, length, sign or size. What is trusted is memory: an address
and its strides lead into one large buffer here, whatever they are. Anything but a result or one of Python's ordinary
exceptions is a fault, and most faults end the process: the last line that it has printed names the call.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from binxent import _native, formula
from binxent.call import Call, Operands
from binxent.kernels import Outputs
from binxent.options import Terms
from binxent.targets import SparseRows
from tests.fuzz.record import record

REFUSALS = (TypeError, ValueError, MemoryError, RuntimeError, OverflowError, AttributeError)
HALF = 1 << 20  # bytes of the buffer on either side of an operand's first element
BUFFER = np.zeros(2 * HALF, np.uint8)
NOTHING = (None, -1, 0, 1, 2**31, 2**63, -(2**63), 2**64, 1.5, float("nan"), "", "weights", "kept", b"x", (), [], {})


class Garbage:
    """Draws one call."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])
        BUFFER[HALF : HALF + 64] = self.rng.integers(0, 2, 64)
        self.kept: list[Any] = []
        self.shape = self.sizes(int(self.rng.choice([0, 1, 1, 2, 2, 3])))

    def often(self, right: Callable[[], Any], probability: float = 0.9) -> Any:
        return right() if self.rng.random() < probability else self.one_of((*NOTHING, right, [right()], (right(),)))

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def sizes(self, dims: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.choice([0, 1, 2, 3, 5, 9], dims))

    def operand(self, shape: tuple[int, ...] | None = None) -> Any:
        own = self.shape if shape is None else shape
        if self.rng.random() < 0.1:
            own = self.one_of((own[1:], (*own, 1), own[:-1], (1,) * len(own), (-1, *own)))
        steps = tuple(int(step) for step in self.rng.integers(-64, 65, len(own)))
        tag = int(self.rng.integers(0, 10)) if self.rng.random() < 0.95 else self.one_of((-1, 10, 99, 2**40))
        strides = self.often(lambda: steps, 0.95) if self.rng.random() < 0.8 else None
        whole = (self.often(lambda: BUFFER.ctypes.data + HALF, 0.99), tag, self.often(lambda: own, 0.98), strides)
        if not isinstance(whole[0], int) or whole[0] != BUFFER.ctypes.data + HALF:
            whole = (self.one_of((None, "", 1.5, 0)), *whole[1:])
        return self.often(lambda: whole, 0.97)

    def optional(self) -> Any:
        return None if self.rng.random() < 0.5 else self.operand()

    def labels(self, size: int) -> Any:
        """Packed integers: what a label or an offset is, now and then anything."""
        values = np.sort(self.rng.integers(0, 9, size))
        wrong = self.rng.random(size) < 0.05
        values[wrong] = self.rng.integers(-(2**62), 2**62, int(wrong.sum()))
        kept = np.ascontiguousarray(values, self.one_of((np.int64, np.int64, np.int32)))
        self.kept.append(kept)  # its address is in use for as long as the call takes
        return (kept.ctypes.data, _native.DTYPES[kept.dtype.name], kept.shape, None)

    def numbers(self) -> Any:
        return self.often(lambda: tuple(Terms(*(self.often(lambda: 0.5, 0.8) for _ in range(3)))))

    def divisor(self) -> Any:
        return self.often(lambda: self.one_of((1.0, 0.0, 3, "kept", "weights")))

    def output(self) -> Any:
        """Packed, so that none of its elements is another's."""
        return (BUFFER.ctypes.data + HALF, int(self.rng.integers(0, 5)), self.shape, None)


def compute(draw: Garbage) -> Any:
    weights = draw.often(lambda: tuple(draw.operand() for _ in range(int(draw.rng.integers(0, 4)))))
    return _native.compute(
        draw.often(lambda: bool(draw.rng.integers(2))),
        draw.operand(),
        draw.operand(),
        weights,
        draw.optional(),
        draw.optional(),
        None if draw.rng.random() < 0.5 else draw.numbers(),
        draw.optional(),
        draw.often(lambda: None),
        draw.optional(),
        draw.divisor(),
        draw.often(lambda: 1.0),
        draw.often(lambda: 0, 1.0),
    )


def operands(draw: Garbage) -> Any:
    rows = draw.shape[0] if draw.shape else 0

    def sparse() -> Any:
        shape = draw.often(lambda: draw.shape, 0.95)
        return SparseRows(*(draw.often(lambda: None) for _ in range(3)), shape, draw.often(lambda: 0, 0.9))

    target = draw.operand() if draw.rng.random() < 0.9 or rows > 99 else draw.often(sparse)
    return draw.often(lambda: Operands(draw.operand(), target, *(draw.optional() for _ in range(4))), 0.97)


def call(draw: Garbage) -> Any:
    loss = draw.often(lambda: draw.one_of((formula.LOGITS, formula.PROBABILITIES)))
    terms = None if draw.rng.random() < 0.5 else draw.numbers()
    return draw.often(lambda: Call(loss, "mean", "float32", terms, draw.divisor(), draw.often(lambda: False)), 0.97)


def compute_call(draw: Garbage) -> Any:
    outputs = draw.often(lambda: Outputs(draw.optional(), None, draw.optional()), 0.95)
    return _native.compute_call(call(draw), operands(draw), outputs, draw.often(lambda: None), draw.often(lambda: 1.0))


def read_labels(draw: Garbage) -> Any:
    size, rows = int(draw.rng.integers(0, 20)), int(draw.rng.integers(0, 6))
    offsets = None if draw.rng.random() < 0.4 else draw.often(lambda: draw.labels(rows + 1), 0.95)
    return _native.read_labels(
        offsets,
        draw.often(lambda: draw.labels(size), 0.95),
        draw.often(lambda: int(draw.rng.integers(-1, 6))),
        draw.often(lambda: int(draw.rng.integers(-1, 12))),
        draw.often(lambda: None),
        draw.often(lambda: True),
    )


CALLS: dict[str, Callable[[Garbage], Any]] = {
    "compute": compute,
    "compute_call": compute_call,
    "measure_call": lambda draw: _native.measure_call(call(draw), operands(draw)),
    "reads": lambda draw: _native.reads(operands(draw)),
    "read_labels": read_labels,
    "new_bytes": lambda draw: _native.new_bytes(draw.often(lambda: int(draw.rng.integers(0, 1 << 22)), 0.7)),
    "new_tensor": lambda draw: _native.new_tensor(draw.one_of(NOTHING), draw.often(lambda: True)),
    "set_num_threads": lambda draw: _native.set_num_threads(draw.one_of((*NOTHING[5:], 1, 2, 3))),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.door", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--record", action="store_true", help="write the counts into benchmarks/results/attacks.csv")
    parser.add_argument("--show", action="store_true", help="print each call's name before it is made")
    given = parser.parse_args(arguments)
    faulthandler.enable()
    found, failures, began = collections.Counter[str](), 0, time.monotonic()
    for number in range(given.first, given.first + given.count):
        draw = Garbage(given.seed, number)
        name = draw.one_of(list(CALLS))
        if given.show:
            print(f"--first {number} --count 1: {name}", flush=True)
        try:
            CALLS[name](draw)
            found["accepted"] += 1
        except REFUSALS:
            found["refused"] += 1
        except Exception as error:
            failures += 1
            again = f"python -m tests.fuzz.door --seed {given.seed} --first {number} --count 1"
            print(f"{again}  # {name}: {type(error).__name__}: {error}")
    print(f"door: seed {given.seed}: {dict(found)}, {failures} wrong")
    if given.record:
        seconds = time.monotonic() - began
        record("fuzz", "door", calls=given.count, wrong=failures, seconds=seconds, how=f"seed {given.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
