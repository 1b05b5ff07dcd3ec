"""The kernel for the processor's memory, in C++: ``native/`` is its source.

An operand is ``(address, dtype tag, shape, strides in bytes or None if contiguous)``, or a tensor of any type that
offers DLPack's C exchange interface. Weights, pos_weight and mask broadcast to the logits' shape. The bits do not
depend on the instruction set either, but for the baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent import _native, threads

if TYPE_CHECKING:
    from collections.abc import Mapping


Operand = tuple[int, int, tuple[int, ...], tuple[int, ...] | None] | Any

name, device = "native", "cpu"
_native.set_default_num_threads(threads.asked_for())

TAGS: Mapping[str, int] = _native.DTYPES
INPUT_OUT_OF_RANGE: int = _native.INPUT_OUT_OF_RANGE
TARGET_OUT_OF_RANGE: int = _native.TARGET_OUT_OF_RANGE
xla_handler = _native.xla_handler  # of XLA's foreign function interface, in a capsule
new_tensor = _native.new_tensor  # of the shape (or of none) and dtype of a tensor that offers DLPack's interface


# Native functions, since a Python frame and its packing would be a tenth of a loss of 64 elements. ``compute`` takes
# Call, Operands and Outputs, then divisor, incoming and executor; ``measure`` takes Call, Operands and executor.
reads = _native.reads
measure = _native.measure_call
compute = _native.compute_call
