from types import ModuleType
from typing import Any

from binxent.call import Call, Operands
from binxent.kernels import Outputs
from binxent.kernels.native import Operand

DTYPES: dict[str, int]
INPUT_OUT_OF_RANGE: int
TARGET_OUT_OF_RANGE: int
WRONG_TARGETS: int
MAX_ROWS_IN_CELL: int
CELL_COUNT_SHIFT: int
PROBABILITY_BITS: int
SCORE_PADDING: int
SCORE_PAGE_SHIFT: int
SCORE_WITHOUT_BIN: int
LARGE_MEMORY: int
instruction_set: str
paddle: ModuleType
xla_handler: object

def new_tensor(like: Any, scalar: bool) -> Any: ...
def new_bytes(size: int) -> Any: ...
def release_memory() -> int: ...
def runs() -> int: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def set_default_num_threads(threads: int) -> None: ...
def reads(operands: Operands) -> bool: ...
def measure_call(call: Call, operands: Operands, executor: int = 0) -> float: ...
def compute_call(
    call: Call,
    operands: Operands,
    outputs: Outputs | tuple[Any, Any, Any],
    divisor: float | None = None,
    incoming: Operand | float = 1.0,
    executor: int = 0,
) -> int: ...
def compute(
    probabilities: bool,
    x: Operand,
    target: Operand,
    weights: tuple[Operand, ...],
    pos_weight: Operand | None,
    mask: Operand | None,
    terms: tuple[float | None, float, float] | None,
    loss: Operand | None,
    value: Operand | None,
    gradient: Operand | None,
    divisor: float | str,
    incoming: float,
    executor: int,
) -> int: ...
def count(
    probabilities: bool,
    x: Operand,
    target: Operand,
    loss: Operand | None,
    known: Operand | None,
    threshold: float,
    calibration_bins: int,
    score_bins: tuple[int, int, int],
    done: int,
    tables: tuple[int, int, int, int, int, int],
) -> tuple[int, int]: ...
def register_torch_operators(library: int, executor: int) -> bool: ...
def read_labels(
    offsets: Operand | None,
    labels: Operand,
    width: int,
    num_labels: int,
    padding: int | None,
    is_set: bool,
    outputs: tuple[Operand, ...] | None = None,
) -> tuple[int, int, int, bool]: ...
def loss_sums(labels: int) -> int: ...
