from types import ModuleType

from binxent.kernel import Operand

DTYPES: dict[str, int]
INPUT_OUT_OF_RANGE: int
TARGET_OUT_OF_RANGE: int
instruction_set: str
paddle: ModuleType
xla_handler: object

def runs() -> int: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
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
    factor: float,
    executor: int,
) -> int: ...
