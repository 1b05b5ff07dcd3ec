"""The one door to native code.

``compute`` takes operands as ``(address, dtype tag, shape, strides in bytes or None if contiguous)``, or as tensors of
any type that offers DLPack's C exchange interface, and knows no framework. In one pass over memory it writes any of the
loss of each element, the sum of the losses divided by ``divisor``, and the gradient for the ``incoming`` one, divided
likewise (which may be the logits' own memory). Weights, pos_weight and mask broadcast to the logits' shape. ``terms``
is None or an ``options.Terms``. ``divisor`` is a number, or ``options.KEPT`` or ``WEIGHTS``, which the kernel measures
first. The result does not depend on threads, layout, or instruction set (but for the baseline one).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent import _native, threads

if TYPE_CHECKING:
    from collections.abc import Mapping

Operand = tuple[int, int, tuple[int, ...], tuple[int, ...] | None] | Any

TAGS: Mapping[str, int] = _native.DTYPES
FLOATING = ("float16", "bfloat16", "float32", "float64")
INPUT_OUT_OF_RANGE: int = _native.INPUT_OUT_OF_RANGE
TARGET_OUT_OF_RANGE: int = _native.TARGET_OUT_OF_RANGE

library: str = _native.__file__  # for a framework that loads operators from it by name
instruction_set: str = _native.instruction_set
_native.set_default_num_threads(threads.asked_for())
num_threads = _native.num_threads
set_num_threads = _native.set_num_threads
compute = _native.compute
LARGE_MEMORY: int = _native.LARGE_MEMORY  # bytes; results from there on lie in memory that is kept when they are freed
new_tensor = _native.new_tensor  # of the shape (or of none) and dtype of a tensor that offers DLPack's interface
new_bytes = _native.new_bytes  # a large numpy.ndarray
release_memory = _native.release_memory  # that is kept; how many bytes there were
count = _native.count  # of a chunk of predictions and labels, into the tables of a report
MAX_ROWS_IN_CELL: int = _native.MAX_ROWS_IN_CELL
CELL_COUNT_SHIFT: int = _native.CELL_COUNT_SHIFT
PROBABILITY_BITS: int = _native.PROBABILITY_BITS
SCORE_PADDING: int = _native.SCORE_PADDING
SCORE_PAGE_SHIFT: int = _native.SCORE_PAGE_SHIFT
SCORE_WITHOUT_BIN: int = _native.SCORE_WITHOUT_BIN
loss_sums = _native.loss_sums  # how many sums of losses wait while a chunk is counted
runs = _native.runs  # how many times the kernel has run in this process
paddle = _native.paddle  # what the Paddle face does not do in Python, for the sake of small losses
xla_handler = _native.xla_handler  # of XLA's foreign function interface, in a capsule
