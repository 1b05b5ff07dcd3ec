"""Checks operands and options, plans a call, and refuses with MindSpore's exceptions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mindspore as ms

from binxent import options
from binxent.call import ROWS, SIZE, Operands, averaged_axes, normalized, plan
from binxent.formula import LOGITS
from binxent.kernels import native
from binxent.options import NO_FOCAL, Focal, Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.call import Call
    from binxent.formula import Loss

DTYPE = {name: getattr(ms, f"{name}_" if name == "bool" else name) for name in native.TAGS}
NAME = {dtype: name for name, dtype in DTYPE.items()}
TAG = {dtype: native.TAGS[name] for name, dtype in DTYPE.items()}

# The operands of an operator: input, target, weight, sample_weight, pos_weight, mask, normalizer, neg_weight.
NAMES = (*Operands._fields[:6], "normalizer", "neg_weight")
FLOATING = (ms.float16, ms.bfloat16, ms.float32)  # MindSpore's losses refuse float64
_TARGETS = tuple(dtype for dtype in TAG if dtype != ms.float64)
_NUMBERS = tuple(dtype for dtype in TAG if dtype != ms.bool_)
_ACCEPTED = {"target": _TARGETS, "mask": _TARGETS, "normalizer": _NUMBERS}  # other operands: FLOATING

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


def family(alpha: object, gamma_positive: object, gamma_negative: object, margin: object, focal: object) -> Focal:
    """The options of the focal family as one value."""
    given = alpha, gamma_positive, gamma_negative, margin, focal
    known: Focal = _in_mindspores_words(options.focal, *given, (ms.Tensor,))
    return known


def checked_terms(
    ignore_index: object, label_smoothing: object, gamma: object, of_focal: Focal = NO_FOCAL
) -> Terms | None:
    """The options that are numbers; None if all have their defaults."""
    numbers = ignore_index, label_smoothing, gamma
    for name, value in zip(Terms._fields, numbers, strict=False):
        if isinstance(value, ms.Tensor):  # its value is unknown while a graph is compiled
            raise TypeError(f"{name}: expected a number, got Tensor, to which there would be no gradient")
    known: Terms | None = _in_mindspores_words(options.terms, *numbers, "float32", of_focal)
    return known


def checked_kind(name: str, kind: Kind) -> tuple[tuple[int, ...], Any]:
    """The kind, of a tensor whose dtype the operand of that name may have."""
    if kind is None or isinstance(kind, str):
        raise TypeError(f"{name}: expected a mindspore.Tensor, got {kind}")
    accepted = _ACCEPTED.get(name, FLOATING)
    if kind[1] not in accepted:
        known = ", ".join(map(str, accepted))
        raise TypeError(f"{name}: dtype {kind[1]} is not supported; expected one of {known}")
    return kind


def _is_known(shape: tuple[int, ...]) -> bool:
    """Whether all sizes are known: a graph may be compiled for any size, or number, of dimensions."""
    return min(shape, default=0) >= 0


@functools.lru_cache(maxsize=256)  # the same call is made at each step
def planned(loss: Loss, reduction: str, terms: Terms | None, check_targets: bool, kinds: tuple[Kind, ...]) -> Call:
    """The call of operands of these kinds. A shape that is not known yet passes: it is checked when the graph runs."""
    (shape, dtype), (_, target_dtype) = map(checked_kind, NAMES[:2], kinds[:2])
    fitting = {"input": shape, "target": shape, "sample_weight": shape[:1]}
    shapes: dict[str, tuple[int, ...] | None] = {}
    for name, kind in zip(NAMES, kinds, strict=True):
        own = None if kind is None else checked_kind(name, kind)[0]
        shapes[name] = own if own is None or (_is_known(shape) and _is_known(own)) else fitting.get(name, ())
    normalizer, given = shapes.pop("normalizer"), shapes.pop("input")
    wanted = (loss, reduction, (NAME[dtype], NAME[target_dtype]), given)
    ignore_index = terms and terms.ignore_index  # the other terms are checked already
    also = {"ignore_index": ignore_index, "check_targets": check_targets, "any_target": not check_targets}
    call: Call = _in_mindspores_words(plan, *wanted, **shapes, **also)._replace(terms=terms)
    if normalizer is None:
        return call
    _in_mindspores_words(options.check_normalizer, reduction, normalizer)
    return normalized(call, None)


@functools.lru_cache(maxsize=256)
def planned_count(reduction: str, terms: Terms | None, target: Kind, *others: Kind) -> Call:
    """The call whose divisor is to be counted; ``others`` are weight, sample_weight and mask."""
    _in_mindspores_words(options.check_countable, reduction)
    shape, _ = checked_kind("target", target)
    weight, sample_weight, mask = others
    kinds = ((shape, ms.float32), target, weight, sample_weight, None, mask, None, None)
    call = planned(LOGITS, reduction, terms, False, kinds)
    if isinstance(call.divisor, str) and 0 not in shape:  # MindSpore cannot sum over no elements
        return call
    return call._replace(divisor=ROWS if reduction == "batchmean" else SIZE)


def averaged(reduction: str, dims: int | None, normalizer: Kind) -> tuple[int, ...]:
    """The axes over which the means of this reduction are taken, of an input of so many, which None does not tell."""
    if normalizer is not None:
        _in_mindspores_words(options.check_normalizer, reduction)
    if dims is None:
        raise ValueError(f"reduction: {reduction!r} of an input whose number of axes the graph does not know")
    axes: tuple[int, ...] = _in_mindspores_words(averaged_axes, reduction, dims)
    return axes


def checked_normalizer(normalizer: object, reduction: object) -> float:
    """The number, where it is no tensor."""
    if normalizer is None:
        raise TypeError("normalizer: expected a number that is constant in a graph, or a Tensor, got a variable")
    known: float = _in_mindspores_words(options.checked_normalizer, normalizer, checked_reduction(reduction))
    return known
