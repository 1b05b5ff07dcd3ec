"""Checks operands and options, plans a call, and refuses with MindSpore's exceptions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mindspore as ms

from binxent import options
from binxent.call import Operands, plan
from binxent.kernels import native
from binxent.options import Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.call import Call
    from binxent.formula import Loss

DTYPE = {name: getattr(ms, f"{name}_" if name == "bool" else name) for name in native.TAGS}
NAME = {dtype: name for name, dtype in DTYPE.items()}
TAG = {dtype: native.TAGS[name] for name, dtype in DTYPE.items()}

NAMES = Operands._fields[:6]  # input, target, weight, sample_weight, pos_weight, mask
FLOATING = (ms.float16, ms.bfloat16, ms.float32)  # MindSpore's losses refuse float64
_TARGETS = tuple(dtype for dtype in TAG if dtype != ms.float64)

# What is known of an operand before it is read: its shape and dtype; the name of its type if it is no tensor; or None.
Kind = tuple[tuple[int, ...], Any] | str | None


def _in_mindspores_words(check: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What the check returns. Its refusal becomes a plain ValueError, as MindSpore raises, in a graph too."""
    try:
        return check(*given, **named)
    except options.RefusalError as refusal:
        raise ValueError(str(refusal)) from None


def checked_reduction(reduction: object) -> str:
    """The reduction in lower case: MindSpore accepts any case, except in its class BCELoss."""
    if not isinstance(reduction, str):
        raise TypeError(f"reduction: expected a str, got {type(reduction).__name__}")
    known: str = _in_mindspores_words(options.check_reduction, reduction.lower())
    return known


def checked_terms(ignore_index: object, label_smoothing: object, gamma: object) -> Terms | None:
    """The options that are numbers; None if all have their defaults."""
    for name, value in zip(Terms._fields, (ignore_index, label_smoothing, gamma), strict=True):
        if isinstance(value, ms.Tensor):  # its value is unknown while a graph is compiled
            raise TypeError(f"{name}: expected a number, got Tensor, to which there would be no gradient")
    known: Terms | None = _in_mindspores_words(options.terms, ignore_index, label_smoothing, gamma, "float32")
    return known


def _checked_kind(name: str, kind: Kind) -> tuple[tuple[int, ...], Any]:
    if kind is None or isinstance(kind, str):
        raise TypeError(f"{name}: expected a mindspore.Tensor, got {kind}")
    accepted = _TARGETS if name in ("target", "mask") else FLOATING
    if kind[1] not in accepted:
        known = ", ".join(map(str, accepted))
        raise TypeError(f"{name}: dtype {kind[1]} is not supported; expected one of {known}")
    return kind


def _is_known(shape: tuple[int, ...]) -> bool:
    """Whether all sizes are known: a graph may be compiled for any size, or number, of dimensions."""
    return min(shape, default=0) >= 0


@functools.lru_cache(maxsize=256)  # the same call is made at each step
def planned(loss: Loss, reduction: str, terms: Terms | None, kinds: tuple[Kind, ...]) -> Call:
    """The call of operands of these kinds. A shape that is not known yet passes: it is checked when the graph runs."""
    (shape, dtype), (_, target_dtype) = map(_checked_kind, NAMES[:2], kinds[:2])
    fitting = (shape, shape, (), shape[:1], (), ())
    shapes: list[tuple[int, ...] | None] = []
    for name, kind, fits in zip(NAMES, kinds, fitting, strict=True):
        own = None if kind is None else _checked_kind(name, kind)[0]
        shapes.append(own if own is None or (_is_known(shape) and _is_known(own)) else fits)
    numbers = (None, 0.0, 0.0) if terms is None else terms
    wanted = (loss, reduction, (NAME[dtype], NAME[target_dtype]), *shapes, *numbers)
    call: Call = _in_mindspores_words(plan, *wanted, any_target=True)
    return call
