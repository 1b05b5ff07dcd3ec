"""Offers what the native library does besides a call of the loss: threads, reused memory, tables of reports.

``release_memory``, ``num_threads``, ``set_num_threads`` and ``instruction_set`` are public. ``compute`` is the native
function that the tests call directly. It takes operands as ``kernels.native`` describes them, the weights in a tuple,
the terms or None, the three outputs, the divisor (a number, ``"kept"`` or ``"weights"``), the incoming gradient, and an
executor of the host.
"""

from __future__ import annotations

from binxent.call import FLOATING as FLOATING
from binxent.kernels.native import INPUT_OUT_OF_RANGE as INPUT_OUT_OF_RANGE
from binxent.kernels.native import TAGS as TAGS
from binxent.kernels.native import TARGET_OUT_OF_RANGE as TARGET_OUT_OF_RANGE
from binxent.kernels.native import Operand as Operand
from binxent.kernels.native import _native

library: str = _native.__file__  # MindSpore loads operators from this file, by name
instruction_set: str = _native.instruction_set
num_threads = _native.num_threads
set_num_threads = _native.set_num_threads
compute = _native.compute
LARGE_MEMORY: int = _native.LARGE_MEMORY  # bytes: from this size the memory of a result is reused by the next
new_tensor = _native.new_tensor  # a tensor like another one, or without axes, by DLPack's interface
new_bytes = _native.new_bytes  # a numpy.ndarray of bytes, in reused memory
release_memory = _native.release_memory  # gives unused memory back to the system; returns how many bytes
count = _native.count  # adds a chunk of predictions and labels to the tables of a report
MAX_ROWS_IN_CELL: int = _native.MAX_ROWS_IN_CELL
CELL_COUNT_SHIFT: int = _native.CELL_COUNT_SHIFT
PROBABILITY_BITS: int = _native.PROBABILITY_BITS
SCORE_PADDING: int = _native.SCORE_PADDING
SCORE_PAGE_SHIFT: int = _native.SCORE_PAGE_SHIFT
SCORE_WITHOUT_BIN: int = _native.SCORE_WITHOUT_BIN
loss_sums = _native.loss_sums  # how many partial sums of losses ``count`` needs room for
runs = _native.runs  # how many times the kernel has run in this process
paddle = _native.paddle  # what would take the Paddle face too long in Python, for a small loss
xla_handler = _native.xla_handler  # for XLA's foreign function interface, in a capsule
