"""The loss made of Paddle's own differentiable operations.

It serves where the kernel cannot: static graphs, gradients of gradients, gradients to the label and the weights,
weights that enlarge the result, and other devices.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import paddle
from paddle import Tensor
from paddle.base.framework import _current_expected_place

from binxent import formula

_LARGEST_FLOAT16 = 65504.0


def _constant(x: Any) -> Any:
    """What is not differentiated. In a static graph a copy: Paddle computes in place, and forgets who shares memory."""
    if isinstance(x, Tensor):
        return x.detach()
    copy = paddle.assign(x)
    copy.stop_gradient = True
    return copy


class _Operations:
    """Paddle's operations, by the names that the formula has for them."""

    exp = staticmethod(paddle.exp)
    log = staticmethod(paddle.log)
    where = staticmethod(paddle.where)
    isinf = staticmethod(paddle.isinf)

    @staticmethod
    def zeros_like(x: Any) -> Any:
        """Paddle's own warns in a static graph."""
        return paddle.cast(x < x, x.dtype)

    @staticmethod
    def log1p(x: Any) -> Any:
        """Paddle's log1p has no second derivative; log(1 + x) has, but not the value: each gives what it has."""
        if x.stop_gradient:
            return paddle.log1p(x)
        log = paddle.log(1 + x)
        return paddle.log1p(_constant(x)) + (log - _constant(log))


def _wide(result: Any) -> Any:
    """The arithmetic's dtype: half precision is computed in float32 and rounded once, at the end."""
    return paddle.float64 if result == paddle.float64 else paddle.float32


def _product(weights: tuple[Any, ...], dtype: Any) -> Any:
    product = None
    for weight in weights:
        weight = paddle.cast(weight, dtype)
        product = weight if product is None else product * weight
    return product


def _saturated(gradient: Any) -> Any:
    """Of a float16 probability: 1e12 is beyond its range."""
    return paddle.clip(gradient, -_LARGEST_FLOAT16, _LARGEST_FLOAT16)


def _probabilities_loss(q: Any, y: Any, weight: Any, p: Any) -> Any:
    """The loss with the frameworks' gradient, which is not that of the clamped logarithms.

    It is the loss of a constant q, plus (q − constant)·slope, which is 0 and whose derivative is the slope. The slope
    is taken half at q and half at the constant, so that the second derivatives are right too.
    """
    constant = _constant(q)
    loss = formula.probabilities_loss(_Operations, constant, y, weight, p)
    if q.stop_gradient:
        return loss
    slope = formula.probabilities_gradient(_Operations, q, y, weight, p)
    slope = (slope + formula.probabilities_gradient(_Operations, constant, y, weight, p)) / 2
    return loss + (q - constant) * slope


def _sum(elements: Any) -> Any:
    """In float64, which not every device has: Paddle's float32 sum is 2e-6 off, and its mean 12 % at 10⁸ elements."""
    place = elements.place if isinstance(elements, Tensor) else _current_expected_place()
    if place.is_cpu_place() or place.is_gpu_place():
        elements = paddle.cast(elements, paddle.float64)
    return paddle.sum(elements)


def _without_amp() -> Any:
    """Mixed precision would compute the parts of the formula in half precision. It is for the dynamic graph."""
    return paddle.amp.auto_cast(enable=False) if paddle.in_dynamic_mode() else nullcontext()


def loss(
    probabilities: bool, reduction: str, result: Any, input: Any, label: Any, weights: tuple[Any, ...], pos_weight: Any
) -> Any:
    """Of dtype ``result``; of operands in the dynamic or in a static graph."""
    wide = _wide(result)
    with _without_amp():
        x, y, w = paddle.cast(input, wide), paddle.cast(label, wide), _product(weights, wide)
        p = None if pos_weight is None else paddle.cast(pos_weight, wide)
        if not probabilities:
            elements = formula.logits_loss(_Operations, x, y, w, p)
        else:
            if isinstance(x, Tensor) and not x.stop_gradient and input.dtype == paddle.float16:
                x.register_hook(_saturated)
            elements = _probabilities_loss(x, y, w, p)
        if reduction == "none":
            return paddle.cast(elements, result)
        total = _sum(elements)
        if reduction == "mean":
            total = total / paddle.cast(paddle.numel(elements), total.dtype)
        return paddle.cast(total, result)


def gradient(
    probabilities: bool,
    divisor: float,
    input: Tensor,
    label: Tensor,
    weights: tuple[Tensor, ...],
    pos_weight: Tensor | None,
    incoming: Tensor,
) -> Any:
    """The gradient to the input, itself differentiable."""
    wide = _wide(incoming.dtype)
    slope = formula.probabilities_gradient if probabilities else formula.logits_gradient
    with _without_amp():
        p = None if pos_weight is None else paddle.cast(pos_weight, wide)
        gradient = slope(_Operations, paddle.cast(input, wide), paddle.cast(label, wide), _product(weights, wide), p)
        gradient = gradient * (paddle.cast(incoming, wide) / divisor)
        if probabilities and input.dtype == paddle.float16:
            gradient = _saturated(gradient)
        return paddle.cast(gradient, input.dtype)
