"""The kernel for the CPU, in C++, whose source is ``native/``.

An operand is ``(address, dtype tag, shape, strides in bytes or None if contiguous)``, or a tensor of any type that
offers DLPack's C exchange interface. Weights, pos_weight, neg_weight and mask broadcast to the logits' shape; a target
may also be ``SparseRows`` of three such operands. All instruction sets but the baseline give the same bits.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from binxent import threads
from binxent.kernels import IS_BUILT, Outputs

if IS_BUILT:
    from binxent import _native as _native
else:
    from binxent import pure as _native  # type: ignore[no-redef]

    warnings.warn(
        "binxent was built without its native kernel (BINXENT_PURE=1): the definition computes every loss, many times "
        "slower; reports are missing",
        RuntimeWarning,
        stacklevel=2,
    )

if TYPE_CHECKING:
    from collections.abc import Mapping


Operand = tuple[int, int, tuple[int, ...], tuple[int, ...] | None] | Any

name, device = "native", "cpu"
writes = frozenset(Outputs._fields)  # of a hessian, those of logits
_native.set_default_num_threads(threads.asked_for())

TAGS: Mapping[str, int] = _native.DTYPES
INPUT_OUT_OF_RANGE: int = _native.INPUT_OUT_OF_RANGE
TARGET_OUT_OF_RANGE: int = _native.TARGET_OUT_OF_RANGE
WRONG_TARGETS: int = _native.WRONG_TARGETS  # any of the flags that check_targets adds
xla_handler = _native.xla_handler  # for XLA's foreign function interface, in a capsule
new_tensor = _native.new_tensor  # a tensor like another one, or without axes, by DLPack's interface


# These are the native functions themselves: a Python frame around one would cost a tenth of a loss of 64 elements.
# ``compute`` takes Call, Operands and Outputs, then divisor, incoming and executor; ``measure`` takes Call, Operands
# and executor.
reads = _native.reads
measure = _native.measure_call
read_labels = _native.read_labels  # checks and sorts the labels of a sparse target
compute = _native.compute_call
