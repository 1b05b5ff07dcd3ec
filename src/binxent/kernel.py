"""The native library, besides what ``binxent.kernels.native`` makes of a call: threads, kept memory, tables of reports.

``release_memory``, ``num_threads``, ``set_num_threads`` and ``instruction_set`` are public. ``compute`` is the native
function itself, as the tests call it: operands as ``kernels.native`` describes them, weights in a tuple, terms or None,
the three outputs, the divisor (a number, ``"kept"`` or ``"weights"``), the incoming gradient, and a lent executor.
"""

from __future__ import annotations

from binxent import _native
from binxent.call import FLOATING as FLOATING
from binxent.kernels.native import INPUT_OUT_OF_RANGE as INPUT_OUT_OF_RANGE
from binxent.kernels.native import TAGS as TAGS
from binxent.kernels.native import TARGET_OUT_OF_RANGE as TARGET_OUT_OF_RANGE
from binxent.kernels.native import Operand as Operand

library: str = _native.__file__  # for a framework that loads operators from it by name
instruction_set: str = _native.instruction_set
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
