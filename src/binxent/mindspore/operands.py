"""One call of the loss: what was asked for, and the checks that every mode shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import mindspore as ms

from binxent import kernel, options

if TYPE_CHECKING:
    from collections.abc import Sequence


class Call(NamedTuple):
    probabilities: bool
    reduction: str
    # Of options.Terms; here one by one, since a graph is compiled from what reads them.
    ignore_index: float | None = None
    label_smoothing: float = 0.0
    gamma: float = 0.0


NAMES = ("input", "target", "weight", "sample_weight", "pos_weight", "mask")
Operands = tuple[ms.Tensor, ms.Tensor, ms.Tensor | None, ms.Tensor | None, ms.Tensor | None, ms.Tensor | None]

# What is known of an operand before it is read: its shape and dtype, what it is if it is no tensor, or that it is None.
Kind = tuple[tuple[int, ...], Any] | str | None

FLOATING = (ms.float16, ms.bfloat16, ms.float32)  # MindSpore's losses refuse float64
TAG = {getattr(ms, name + "_" if name == "bool" else name): tag for name, tag in kernel.TAGS.items()}
_TARGETS = tuple(dtype for dtype in TAG if dtype != ms.float64)


def check_reduction(reduction: object) -> str:
    """Case does not matter to MindSpore, but in its class BCELoss."""
    if not isinstance(reduction, str):
        raise TypeError(f"reduction: expected a str, got {type(reduction).__name__}")
    return options.check_reduction(reduction.lower())


def terms(ignore_index: object, label_smoothing: object, gamma: object, target_dtype: str) -> options.Terms | None:
    """None if there is nothing out of the ordinary; one NaN is any other, so that it may be looked up."""
    if ignore_index is None and type(label_smoothing) is type(gamma) is float and label_smoothing == gamma == 0:
        return None  # for the sake of small losses: the rest takes a microsecond
    for name, value in (("ignore_index", ignore_index), ("label_smoothing", label_smoothing), ("gamma", gamma)):
        if isinstance(value, ms.Tensor):  # a graph that is being compiled does not tell what a tensor holds
            raise TypeError(f"{name}: expected a number, got Tensor, to which there would be no gradient")
    meant = options.terms(ignore_index, label_smoothing, gamma, target_dtype)
    if meant is not None and meant.ignore_index != meant.ignore_index:
        return meant._replace(ignore_index=math.nan)
    return meant


def _is_known(shape: tuple[int, ...]) -> bool:
    """Whether the graph is compiled for this shape alone, and not for any length, or number, of dimensions."""
    return min(shape, default=0) >= 0


def check(call: Call, kinds: Sequence[Kind]) -> Any:
    """Raise what MindSpore raises; return the dtype of the result: the wider of input and target."""
    shapes: list[tuple[int, ...] | None] = []
    dtypes: list[Any] = []
    for name, kind in zip(NAMES, kinds, strict=True):
        if kind is None and name not in ("input", "target"):
            shapes.append(None)
            continue
        if kind is None or isinstance(kind, str):
            raise TypeError(f"{name}: expected a mindspore.Tensor, got {kind}")
        accepted = _TARGETS if name in ("target", "mask") else FLOATING
        if kind[1] not in accepted:
            known = ", ".join(map(str, accepted))
            raise TypeError(f"{name}: dtype {kind[1]} is not supported; expected one of {known}")
        # A shape that is not known yet is checked when the graph runs.
        shapes.append(kind[0] if _is_known(kind[0]) else None)
        dtypes.append(kind[1])
    shape, target_shape, weight, sample_weight, pos_weight, mask = shapes
    if shape is not None:
        if target_shape is not None and target_shape != shape:
            raise ValueError(f"target: shape {target_shape} must be the same as the input's, {shape}")
        if weight is not None:
            options.check_broadcast("weight", weight, shape)
        if pos_weight is not None:
            options.check_broadcast("pos_weight", pos_weight, shape)
        if sample_weight is not None:
            options.check_sample_weight(sample_weight, shape)
        if mask is not None:
            options.check_broadcast("mask", mask, shape)
        if call.reduction == "batchmean":
            options.divisor(call.reduction, shape)  # it needs a first axis
    dtype, target_dtype = dtypes[:2]
    if call.ignore_index is not None:  # whether the target's dtype has it
        terms(call.ignore_index, call.label_smoothing, call.gamma, str(target_dtype).lower())
    if target_dtype == dtype or target_dtype not in FLOATING:
        return dtype
    return ms.float32  # two of the three differ: either one is float32, or float16 and bfloat16 meet in it
