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
from binxent.mindspore.call import FLOATING, Call, Operands


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


_ops = SimpleNamespace(
    exp=ops.exp, log=ops.log, log1p=_log1p, where=ops.where, isinf=ops.isinf, zeros_like=ops.zeros_like
)


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.astype(_arithmetic())


def _column(sample_weight: Tensor, input: Tensor) -> Tensor:
    """Of shape [N, 1, …, 1], so that it broadcasts along the first axis."""
    return sample_weight.reshape((-1,) + (1,) * (input.ndim - 1))


def _product(input: Tensor, weight: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    if sample_weight is None:
        return _wide(weight)
    column = _column(_wide(sample_weight), input)
    return column if weight is None else _wide(weight) * column


def _elements(call: Call, x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    if call.probabilities:
        return formula.probabilities_loss(_ops, x, y, w, p)
    return formula.logits_loss(_ops, x, y, w, p)


def loss(call: Call, operands: Operands, dtype: Any) -> Tensor:
    input, target, weight, sample_weight, pos_weight = operands
    weights = _product(input, weight, sample_weight)
    elements = _elements(call, _wide(input), _wide(target), weights, _wide(pos_weight))
    if call.reduction == "none":
        return elements.astype(dtype)
    total = ops.sum(elements)
    return (total / input.size if call.reduction == "mean" else total).astype(dtype)


_no_constant = ops.Depend()  # of a tensor that a graph knows, and so may be a constant, MindSpore has no derivative


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return ops.sum(a * b)


def _gradient(call: Call, input: Tensor, slope: Tensor, incoming: Tensor, operand: Tensor) -> Tensor:
    """slope · incoming, summed over what was broadcast, and rounded."""
    scale = _wide(incoming) / input.size if call.reduction == "mean" else _wide(incoming)
    # The derivative of a product sums so whether a graph knows the shapes or not.
    product = slope * scale
    total = ops.GradOperation()(_sum_of_products)(_no_constant(_wide(operand), product), product)
    if call.probabilities and operand.dtype == ms.float16:
        total = ops.clamp(total, -65504.0, 65504.0)
    return total.astype(operand.dtype)


def to_input(call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    input, target, weight, sample_weight, pos_weight = operands
    x, y, w, p = _wide(input), _wide(target), _product(input, weight, sample_weight), _wide(pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient(_ops, x, y, w, p)
    else:
        slope = formula.logits_gradient(_ops, x, y, w, p)
    return _gradient(call, input, slope, incoming, input)


def to_target(call: Call, operands: Operands, incoming: Tensor) -> Tensor:
    input, target, weight, sample_weight, pos_weight = operands
    if target.dtype not in FLOATING:
        return ops.zeros_like(target)
    x, w, p = _wide(input), _product(input, weight, sample_weight), _wide(pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_target(_ops, x, w, p)
    else:
        slope = formula.logits_gradient_to_target(_ops, x, w, p)
    return _gradient(call, input, slope, incoming, target)


def to_weight(call: Call, operands: Operands, incoming: Tensor) -> Tensor | None:
    input, target, weight, sample_weight, pos_weight = operands
    if weight is None:
        return None
    slope = _elements(call, _wide(input), _wide(target), _product(input, None, sample_weight), _wide(pos_weight))
    return _gradient(call, input, slope, incoming, weight)


def to_sample_weight(call: Call, operands: Operands, incoming: Tensor) -> Tensor | None:
    input, target, weight, sample_weight, pos_weight = operands
    if sample_weight is None:
        return None
    slope = _elements(call, _wide(input), _wide(target), _wide(weight), _wide(pos_weight))
    return _gradient(call, input, slope, incoming, _column(sample_weight, input)).reshape(-1)


def to_pos_weight(call: Call, operands: Operands, incoming: Tensor) -> Tensor | None:
    input, target, weight, sample_weight, pos_weight = operands
    if pos_weight is None:
        return None
    x, y, w = _wide(input), _wide(target), _product(input, weight, sample_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_pos_weight(_ops, x, y, w)
    else:
        slope = formula.logits_gradient_to_pos_weight(_ops, x, y, w)
    return _gradient(call, input, slope, incoming, pos_weight)
