"""The loss made of MindSpore's own operations: ``binxent.formula``.

It serves where the kernel cannot: other devices, the gradients to what is not the input, and higher derivatives. Graphs
are compiled from this source too, so it is written in what MindSpore's compiler reads.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

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
def _check(probabilities: bool, reduction: str, ignore_index: float | None, *kinds: Kind) -> Any:
    return check(Call(probabilities, reduction, ignore_index), kinds)


def _kind(operand: Any) -> Kind:
    if operand is None:
        return None
    if not isinstance(operand, Tensor):
        return "a constant"
    shape = (-2,) if ops.functional.is_sequence_value_unknown(operand.shape) else operand.shape
    return shape, operand.dtype


def check_in_graph(
    call: Call, input: Any, target: Any, weight: Any, sample_weight: Any, pos_weight: Any, mask: Any
) -> Any:
    kinds = _kind(input), _kind(target), _kind(weight), _kind(sample_weight), _kind(pos_weight), _kind(mask)
    return _check(call.probabilities, call.reduction, call.ignore_index, *kinds)


_ops = SimpleNamespace(
    exp=ops.exp, log=ops.log, log1p=_log1p, where=ops.where, isinf=ops.isinf, zeros_like=ops.zeros_like
)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.astype(_arithmetic())


def _keep(call: Call, target: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which elements are not ignored; None: all."""
    if mask is not None and mask.dtype in FLOATING:
        mask = _wide(mask)  # on CPU MindSpore compares no bfloat16
    return formula.kept(_wide(target), mask, call.ignore_index)


def _column(sample_weight: Tensor, input: Tensor) -> Tensor:
    """Of shape [N, 1, …, 1], so that it broadcasts along the first axis."""
    return sample_weight.reshape((-1,) + (1,) * (input.ndim - 1))


def _kept_weight(keep: Tensor | None, weight: Tensor | None) -> Tensor | None:
    return None if weight is None else formula.only(_ops, keep, _wide(weight))


def _product(keep: Tensor | None, input: Tensor, weight: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    w = _kept_weight(keep, weight)
    if sample_weight is not None:
        column = formula.only(_ops, keep, _column(_wide(sample_weight), input))
        w = column if w is None else w * column
    return w


def _elements(call: Call, keep: Tensor | None, x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    if call.probabilities:
        elements = formula.probabilities_loss(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    else:
        elements = formula.logits_loss(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    return formula.only(_ops, keep, elements)


def _divided(call: Call, keep: Tensor | None, x: Tensor, w: Tensor | None, total: Tensor) -> Tensor:
    """By a number, or by how much is kept, or by its weights."""
    if call.reduction == "none" or call.reduction == "sum":
        return total
    if call.reduction == "batchmean":
        return total / x.shape[0]
    if call.reduction == "mean" or w is None:
        if keep is None:
            return total / x.size
        return formula.divided(_ops, total, ops.sum(formula.only(_ops, keep, ops.zeros_like(x) + 1)))
    return formula.divided(_ops, total, ops.sum(formula.only(_ops, keep, (ops.zeros_like(x) + 1) * w)))


def loss(
    call: Call,
    dtype: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    elements = _elements(call, keep, x, y, w, p)
    if call.reduction == "none":
        return elements.astype(dtype)
    return _divided(call, keep, x, w, ops.sum(elements)).astype(dtype)


no_constant = ops.Depend()  # of a tensor that a graph knows, and so may be a constant, MindSpore has no derivative


_ONE = Tensor(1.0, ms.float32)  # for a weight that is not given


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return ops.sum(a * b)


class _Summed(nn.Cell):
    """A product, summed over what an operand was broadcast to."""

    def construct(self, product: Tensor, operand: Tensor) -> Tensor:
        """In a graph, which may not know the shapes: the derivative of a product sums so."""
        variable = no_constant(ops.zeros_like(_wide(operand)), product)
        return ops.GradOperation()(_sum_of_products)(variable, product)

    def __call__(self, product: Tensor, operand: Tensor) -> Tensor:
        """In PyNative mode, where a backward that differentiates makes MindSpore call the hooks of cells too early."""
        lead = product.ndim - operand.ndim
        axes = tuple(i for i, size in enumerate(product.shape) if i < lead or operand.shape[i - lead] != size)
        return ops.sum(product, axes).reshape(operand.shape) if axes else product


_summed = _Summed()


def _rounded(call: Call, total: Tensor, operand: Tensor) -> Tensor:
    if call.probabilities and operand.dtype == ms.float16:
        total = ops.clamp(total, -65504.0, 65504.0)
    return total.astype(operand.dtype)


def _gradient(
    call: Call,
    slope: Tensor,
    keep: Tensor | None,
    x: Tensor,
    w: Tensor | None,
    incoming: Tensor,
    operand: Tensor,
) -> Tensor:
    """slope · incoming, summed over what was broadcast, and rounded."""
    scale = _divided(call, keep, x, w, _wide(incoming))
    return _rounded(call, _summed(formula.only(_ops, keep, slope * scale), operand), operand)


# A tuple that holds None would be shorter here, but MindSpore 2.10 ends the process at some graphs that have one.


def to_input(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    incoming: Tensor,
) -> Tensor:
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    else:
        slope = formula.logits_gradient(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    return _gradient(call, slope, keep, x, w, incoming, input)


def to_target(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    incoming: Tensor,
) -> Tensor:
    if target.dtype not in FLOATING:
        return ops.zeros_like(target)
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_target(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    else:
        slope = formula.logits_gradient_to_target(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    return _gradient(call, slope, keep, x, w, incoming, target)


def _to_weight(
    call: Call,
    keep: Tensor | None,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    p: Tensor | None,
    others: Tensor,
) -> Tensor:
    """The loss by one of two weights, with the other one; both are in the divisor of the weighted mean too."""
    slope = _elements(call, keep, x, y, others, p)
    if call.reduction == "weighted_mean":
        total = ops.sum(_elements(call, keep, x, y, w, p))
        slope = slope - _divided(call, keep, x, w, total) * others
    return slope


def to_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if weight is None:
        return None
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    others = _ONE if sample_weight is None else formula.only(_ops, keep, _column(_wide(sample_weight), input))
    slope = _to_weight(call, keep, x, y, w, p, others)
    return _gradient(call, slope, keep, x, w, incoming, weight)


def to_sample_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if sample_weight is None:
        return None
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    others = _ONE if weight is None else formula.only(_ops, keep, _wide(weight))
    slope = _to_weight(call, keep, x, y, w, p, others)
    total = _gradient(call, slope, keep, x, w, incoming, _column(_wide(sample_weight), input))
    return _rounded(call, total.reshape(-1), sample_weight)  # on CPU no graph reshapes bfloat16


def to_pos_weight(
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    incoming: Tensor,
) -> Tensor | None:
    if pos_weight is None:
        return None
    keep = _keep(call, target, mask)
    x, y = formula.only(_ops, keep, _wide(input)), formula.only(_ops, keep, _wide(target))
    w, p = _product(keep, input, weight, sample_weight), _kept_weight(keep, pos_weight)
    if call.probabilities:
        slope = formula.probabilities_gradient_to_pos_weight(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    else:
        slope = formula.logits_gradient_to_pos_weight(_ops, x, y, w, p, call.label_smoothing, call.gamma)
    return _gradient(call, slope, keep, x, w, incoming, pos_weight)
