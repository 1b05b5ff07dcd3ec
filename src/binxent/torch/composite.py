"""The loss made of torch's own differentiable operations.

It serves where the kernel cannot: transforms and higher derivatives, tracing and export, tensor subclasses, and other
devices. In logits it is ``binxent.formula``, whose automatic derivatives are exact to any order. In probabilities the
two logarithms are torch's own operation, on targets of 0 and 1: it alone has the clamped derivatives that a drop-in
needs, in every mode of differentiation.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy

from binxent import formula, options
from binxent.torch.call import Call, Operands, divisor, refuse_out_of_range, under_dispatch_mode


class _Wide(NamedTuple):
    """In the arithmetic's type: half precision is computed in float32 and rounded once, at the end.

    What is ignored is 0 in each operand, so that nothing of it, not even a NaN, reaches a derivative.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    sample_weight: Tensor | None
    pos_weight: Tensor | None
    keep: Tensor | None  # which elements are not ignored; None: all
    label_smoothing: float
    gamma: float

    @property
    def w(self) -> Tensor | None:
        if self.weight is None or self.sample_weight is None:
            return self.sample_weight if self.weight is None else self.weight
        return self.weight * self.sample_weight

    @property
    def terms(self) -> tuple[float, float]:
        return self.label_smoothing, self.gamma


def _widened(call: Call, operands: Operands) -> _Wide:
    double = torch.float64 in (operands[0].dtype, operands[1].dtype)
    dtype = torch.float64 if double else torch.float32

    def widen(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.is_complex() else tensor.to(dtype)

    terms = call.terms or options.Terms()
    wide: list[Tensor | None] = [widen(operand) for operand in operands[:5]]
    keep: Tensor | None = formula.kept(wide[1], operands[5], terms.ignore_index)
    if keep is not None:
        wide = [None if operand is None else formula.only(torch, keep, operand) for operand in wide]
    return _Wide(*wide, keep, terms.label_smoothing, terms.gamma)  # type: ignore[arg-type, call-arg]


def _saturated(gradient: Tensor) -> Tensor:
    """As float16 can hold it: at q = 0 and 1 the gradient of probabilities is ±1e12."""
    return gradient.clamp(-65504, 65504)


def _assert_range(name: str, valid: Tensor) -> None:
    torch.ops.aten._assert_async.msg(valid.all(), f"all elements of {name} should be between 0 and 1")


def _without_autocast(device: str) -> AbstractContextManager[None]:
    """Autocast on CUDA refuses torch's operation, even in float32."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _values(tensor: Tensor) -> Tensor:
    """The tensor below the wrappers of torch.func's transforms, whose values Python may look at."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.detach()


def _check_range(name: str, tensor: Tensor) -> None:
    values = _values(tensor)
    # There are none in a fake tensor, on the meta device or under a dispatch mode.
    if type(values) is not Tensor or values.is_meta or under_dispatch_mode():
        return
    if not bool(((values >= 0) & (values <= 1)).all()):
        refuse_out_of_range(name, values)


def _probabilities_loss(call: Call, wide: _Wide, weight: Tensor | None) -> Tensor:
    q, y = wide.x, wide.y
    q_valid, y_valid = (q >= 0) & (q <= 1), (y >= 0) & (y <= 1)
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if (q.is_cpu or call.check_range) and not tracing:
        _check_range("input", q)
        _check_range("target", y)
    zeros, nan = torch.zeros_like(q), torch.full_like(q, torch.nan)
    if q.is_cpu:
        # torch's operation refuses what is out of range, in a graph too: a NaN stands for such a target.
        safe, ones = q, torch.where(y_valid, torch.ones_like(q), nan)
        if torch.compiler.is_exporting():  # a decomposed operation does not
            _assert_range("input", q_valid)
            _assert_range("target", y_valid)
    else:  # it would abort the whole CUDA context
        safe, ones = torch.where(q_valid, q, torch.full_like(q, 0.5)), torch.ones_like(q)
    with _without_autocast(q.device.type):
        minus_log = torch_binary_cross_entropy(safe, ones, reduction="none")
        minus_log1m = torch_binary_cross_entropy(safe, zeros, reduction="none")
    # The logarithms come first in each product: torch gives the result the input's strides.
    positive, negative = formula.coefficients(y, wide.pos_weight, wide.label_smoothing)
    if wide.gamma:
        minus_log, minus_log1m = (
            minus_log * formula.focal_power(torch, minus_log1m, wide.gamma),
            minus_log1m * formula.focal_power(torch, minus_log, wide.gamma),
        )
    loss = minus_log * positive + minus_log1m * negative
    loss = loss if weight is None else loss * weight
    # NaN, and a gradient of NaN, where that is out of range.
    checked: Tensor = loss + torch.where(q_valid & y_valid, zeros, nan) * (q + y)
    return checked


def _probabilities_slope(wide: _Wide) -> Tensor:
    """d/dq; its derivative in turn is that of torch's operation, as in the loss."""
    q = wide.x
    if wide.gamma:
        focal: Tensor = formula.probabilities_gradient(torch, q, wide.y, None, wide.pos_weight, *wide.terms)
        return focal

    def slope(target: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.binary_cross_entropy_backward(torch.ones_like(q), q, target, None, 0)
        return result

    positive, negative = formula.coefficients(wide.y, wide.pos_weight, wide.label_smoothing)
    both: Tensor = positive * slope(torch.ones_like(q)) + negative * slope(torch.zeros_like(q))
    return both


def _elements(call: Call, wide: _Wide, weight: Tensor | None) -> Tensor:
    if call.probabilities:
        elements = _probabilities_loss(call, wide, weight)
    else:
        elements = formula.logits_loss(torch, wide.x, wide.y, weight, wide.pos_weight, *wide.terms)
    result: Tensor = formula.only(torch, wide.keep, elements)
    return result


def _divided(call: Call, operands: Operands, wide: _Wide, total: Tensor) -> Tensor:
    """By a number, or by what is kept, or by its weights."""
    by = divisor(call, operands)
    if not isinstance(by, str):
        return total / by
    ones = torch.ones_like(wide.x)
    counted = ones * wide.w if by == options.WEIGHTS and wide.w is not None else ones
    result: Tensor = formula.divided(torch, total, formula.only(torch, wide.keep, counted).sum())
    return result


def loss(call: Call, operands: Operands) -> Tensor:
    wide = _widened(call, operands)
    if call.probabilities and operands[0].dtype == torch.float16 and wide.x.requires_grad:
        wide.x.register_hook(_saturated)
    elements = _elements(call, wide, wide.w)
    dtype = torch.promote_types(call.dtype, torch.complex32) if elements.is_complex() else call.dtype
    if call.reduction == "none":
        return elements.to(dtype)
    return _divided(call, operands, wide, elements.sum()).to(dtype)


def gradients(
    call: Call, operands: Operands, incoming: Tensor, needed: tuple[bool | None, ...]
) -> tuple[Tensor | None, ...]:
    """d loss / d each operand, times the incoming gradient: itself differentiable."""
    wide = _widened(call, operands)
    x, y, weight, sample_weight, p, keep, *terms = wide
    w = wide.w
    scale = _divided(call, operands, wide, incoming.to(x.dtype))

    def fitted(slope: Tensor, operand: Tensor | None) -> Tensor:
        assert operand is not None
        total: Tensor = formula.only(torch, keep, scale * slope).sum_to_size(operand.shape)
        if call.probabilities and operand.dtype == torch.float16:
            total = _saturated(total)
        return total.to(operand.dtype)

    results: list[Tensor | None] = [None] * 6
    if needed[0]:
        if call.probabilities:
            slope = _probabilities_slope(wide)
            slope = slope if w is None else w * slope
        else:
            slope = formula.logits_gradient(torch, x, y, w, p, *terms)
        results[0] = fitted(slope, operands[0])
    if needed[1]:
        if call.probabilities:
            slope = formula.probabilities_gradient_to_target(torch, x, y, w, p, *terms)
        else:
            slope = formula.logits_gradient_to_target(torch, x, y, w, p, *terms)
        results[1] = fitted(slope, operands[1])
    if needed[2] or needed[3]:
        bracket = _elements(call, wide, None)
        if divisor(call, operands) == options.WEIGHTS:  # a weight is part of the divisor too
            bracket = bracket - _divided(call, operands, wide, _elements(call, wide, w).sum())
        if needed[2]:
            results[2] = fitted(bracket if sample_weight is None else bracket * sample_weight, operands[2])
        if needed[3]:
            results[3] = fitted(bracket if weight is None else bracket * weight, operands[3])
    if needed[4]:
        if call.probabilities:
            slope = formula.probabilities_gradient_to_pos_weight(torch, x, y, w, p, *terms)
        else:
            slope = formula.logits_gradient_to_pos_weight(torch, x, y, w, p, *terms)
        results[4] = fitted(slope, operands[4])
    return tuple(results)
