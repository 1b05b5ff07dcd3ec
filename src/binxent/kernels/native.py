"""The kernel for the processor's memory, in C++: ``native/`` is its source.

An operand is ``(address, dtype tag, shape, strides in bytes or None if contiguous)``, or a tensor of any type that
offers DLPack's C exchange interface. Weights, pos_weight and mask broadcast to the logits' shape. The bits do not
depend on the instruction set either, but for the baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binxent import _native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from binxent.call import Call, Operands
    from binxent.kernels import Outputs

Operand = tuple[int, int, tuple[int, ...], tuple[int, ...] | None] | Any

name, device = "native", "cpu"

TAGS: Mapping[str, int] = _native.DTYPES
INPUT_OUT_OF_RANGE: int = _native.INPUT_OUT_OF_RANGE
TARGET_OUT_OF_RANGE: int = _native.TARGET_OUT_OF_RANGE


def compute(
    call: Call,
    operands: Operands,
    outputs: Outputs,
    *,
    divisor: float | None = None,
    incoming: Operand | float = 1.0,
    executor: int = 0,
) -> int:
    weights = tuple(w for w in (operands.weight, operands.sample_weight) if w is not None)
    if not isinstance(incoming, float):  # one for each element: a weight like any other
        weights, incoming = (*weights, incoming), 1.0
    flags: int = _native.compute(
        call.loss.probabilities,
        operands.input,
        operands.target,
        weights,
        operands.pos_weight,
        operands.mask,
        call.terms,
        *outputs,
        call.divisor if divisor is None else divisor,
        incoming,
        executor,
    )
    return flags
