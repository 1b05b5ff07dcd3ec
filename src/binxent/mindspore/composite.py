"""The loss made of MindSpore's own operations: ``binxent.formula``.

It serves where the kernel cannot: other devices, the gradients to what is not the input, and higher derivatives. Graphs
are compiled from this source too, so it is written in what MindSpore's compiler reads.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import mindspore as ms
from mindspore import Tensor, ops

from binxent import formula
from binxent.mindspore.call import FLOATING, Call, Kind, check


@functools.cache
def device() -> str:
    """MindSpore takes longer to tell it than the kernel takes for a small loss, and it is set once in a process."""
    return str(ms.get_context("device_target"))


@ops.constexpr(check=False)
def _on_cpu() -> bool:
    return device() == "CPU"


@ops.constexpr(check=False)
def _arithmetic() -> Any:
    """On CPU float64: MindSpore's float32 exp is 300 ulp off there. Other devices have no float64, or a slow one."""
    return ms.float64 if device() == "CPU" else ms.float32


def _log1p(x: Tensor) -> Tensor:
    """MindSpore's own on CPU is log(1 + x), which is 0 for a small x; its atanh keeps all digits."""
    return 2 * ops.atanh(x / (2 + x)) if _on_cpu() else ops.log1p(x)


@ops.constexpr(check=False)
def _check(*kinds: Kind) -> Any:
    return check(kinds)


def _kind(operand: Any) -> Kind:
    if operand is None:
        return None
    if not isinstance(operand, Tensor):
        return "a constant"
    shape = (-2,) if ops.functional.is_sequence_value_unknown(operand.shape) else operand.shape
    return shape, operand.dtype


def check_in_graph(input: Any, target: Any, weight: Any, sample_weight: Any, pos_weight: Any) -> Any:
    return _check(_kind(input), _kind(target), _kind(weight), _kind(sample_weight), _kind(pos_weight))


_ops = SimpleNamespace(
    exp=ops.exp, log=ops.log, log1p=_log1p, where=ops.where, isinf=ops.isinf, zeros_like=ops.zeros_like
)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.astype(_arithmetic())


def _column(sample_weight: Tensor, input: Tensor) -> Tensor:
    """Of shape [N, 1, …, 1], so that it broadcasts along the first axis."""
    return sample_weight.reshape((-1,) + (1,) * (input.ndim - 1))


def _product(input: Tensor, weight: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    w = None if weight is None else _wide(weight)
    if sample_weight is not None:
        column = _column(_wide(sample_weight), input)
        w = column if w is None else w * column
    return w


def _elements(call: Call, x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    if call.probabilities:
        return formula.probabilities_loss(_ops, x, y, w, p)
    return formula.logits_loss(_ops, x, y, w, p)


def loss(
    call: Call,
    dtype: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
) -> Tensor:
    p = None if pos_weight is None else _wide(pos_weight)
    elements = _elements(call, _wide(input), _wide(target), _product(input, weight, sample_weight), p)
    if call.reduction == "none":
        return elements.astype(dtype)
    total = ops.sum(elements)
    return (total / input.size if call.reduction == "mean" else total).astype(dtype)


no_constant = ops.Depend()  # of a tensor that a graph knows, and so may be a constant, MindSpore has no derivative


_ONE = Tensor(1.0, ms.float32)  # for a weight that is not given


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return ops.sum(a * b)


def _gradient(call: Call, slope: Tensor, incoming: Tensor, operand: Tensor) -> Tensor:
    """slope · incoming, summed over what was broadcast, and rounded."""
    scale = _wide(incoming) / slope.size if call.reduction == "mean" else _wide(incoming)
    # The derivative of a product sums so whether a graph knows the shapes or not.
    product = slope * scale
    variable = no_constant(ops.zeros_like(_wide(operand)), product)
    total = ops.GradOperation()(_sum_of_products)(variable, product)
    if call.probabilities and operand.dtype == ms.float16:
        total = ops.clamp(total, -65504.0, 65504.0)
    return total.astype(operand.dtype)


# A tuple that holds None would be shorter here, but MindSpore 2.10 ends the process at some graphs that have one.


def to_input(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor:
    x, y, w = _wide(input), _wide(target), _product(input, weight, sample_weight)
    p = None if pos_weight is None else _wide(pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient(_ops, x, y, w, p)
    else:
        slope = formula.logits_gradient(_ops, x, y, w, p)
    return _gradient(call, slope, incoming, input)


def to_target(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor:
    if target.dtype not in FLOATING:
        return ops.zeros_like(target)
    x, w = _wide(input), _product(input, weight, sample_weight)
    p = None if pos_weight is None else _wide(pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_target(_ops, x, w, p)
    else:
        slope = formula.logits_gradient_to_target(_ops, x, w, p)
    return _gradient(call, slope, incoming, target)


def to_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if weight is None:
        return None
    p = None if pos_weight is None else _wide(pos_weight)
    others = _ONE if sample_weight is None else _column(_wide(sample_weight), input)
    return _gradient(call, _elements(call, _wide(input), _wide(target), others, p), incoming, weight)


def to_sample_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if sample_weight is None:
        return None
    p = None if pos_weight is None else _wide(pos_weight)
    others = _ONE if weight is None else _wide(weight)
    column = _column(sample_weight, input)
    return _gradient(call, _elements(call, _wide(input), _wide(target), others, p), incoming, column).reshape(-1)


def to_pos_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if pos_weight is None:
        return None
    x, y, w = _wide(input), _wide(target), _product(input, weight, sample_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_pos_weight(_ops, x, y, w)
    else:
        slope = formula.logits_gradient_to_pos_weight(_ops, x, y, w)
    return _gradient(call, slope, incoming, pos_weight)
