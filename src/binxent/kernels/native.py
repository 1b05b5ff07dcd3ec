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

    from binxent.call import Call, Operands
    from binxent.kernels import Outputs

Operand = tuple[int, int, tuple[int, ...], tuple[int, ...] | None] | Any

name, device = "native", "cpu"
_native.set_default_num_threads(threads.asked_for())

TAGS: Mapping[str, int] = _native.DTYPES
INPUT_OUT_OF_RANGE: int = _native.INPUT_OUT_OF_RANGE
TARGET_OUT_OF_RANGE: int = _native.TARGET_OUT_OF_RANGE
xla_handler = _native.xla_handler  # of XLA's foreign function interface, in a capsule
new_tensor = _native.new_tensor  # of the shape (or of none) and dtype of a tensor that offers DLPack's interface


def compute(
    call: Call,
    operands: Operands,
    outputs: Outputs,
    *,
    divisor: float | None = None,
    incoming: Operand | float = 1.0,
    executor: int = 0,
) -> int:
    input, target, weight, sample_weight, pos_weight, mask = operands[:6]
    weights: tuple[Operand, ...] = () if weight is None else (weight,)
    if sample_weight is not None:
        weights = (*weights, sample_weight)
    if not isinstance(incoming, float):  # one for each element: a weight like any other
        weights, incoming = (*weights, incoming), 1.0
    flags: int = _native.compute(
        call.loss.probabilities,
        input,
        target,
        weights,
        pos_weight,
        mask,
        call.terms,
        outputs.elements,
        outputs.total,
        outputs.gradient,
        call.divisor if divisor is None else divisor,
        incoming,
        executor,
    )
    return flags
