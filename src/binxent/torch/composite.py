"""The loss made of torch's own differentiable operations.

It serves where the kernel cannot: transforms and higher derivatives, tracing and export, tensor subclasses, and other
devices. In logits it is ``binxent.formula``, whose automatic derivatives are exact to any order. In probabilities the
two logarithms are torch's own operation, on targets of 0 and 1: it alone has the clamped derivatives that a drop-in
needs, in every mode of differentiation.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy as torch_binary_cross_entropy

from binxent import formula
from binxent.torch.call import Call, Operands, refuse_out_of_range


def _widened(operands: Operands) -> Operands:
    """In the arithmetic's type: half precision is computed in float32 and rounded once, at the end."""
    double = torch.float64 in (operands[0].dtype, operands[1].dtype)
    dtype = torch.float64 if double else torch.float32

    def widen(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.is_complex() else tensor.to(dtype)

    return tuple(map(widen, operands))  # type: ignore[return-value]


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
    if type(values) is not Tensor or values.is_meta or torch._C._len_torch_dispatch_stack():
        return
    if not bool(((values >= 0) & (values <= 1)).all()):
        refuse_out_of_range(name, values)


def _probabilities_loss(call: Call, operands: Operands) -> Tensor:
    q, y, weight, sample_weight, pos_weight = operands
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
    loss = minus_log * _positive(y, pos_weight) + minus_log1m * (1 - y)
    for w in (weight, sample_weight):
        loss = loss if w is None else loss * w
    # NaN, and a gradient of NaN, where that is out of range.
    return loss + torch.where(q_valid & y_valid, zeros, nan) * (q + y)


def _probabilities_slope(q: Tensor, y: Tensor, pos_weight: Tensor | None) -> Tensor:
    """d/dq; its derivative in turn is that of torch's operation, as in the loss."""

    def slope(target: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.binary_cross_entropy_backward(torch.ones_like(q), q, target, None, 0)
        return result

    return _positive(y, pos_weight) * slope(torch.ones_like(q)) + (1 - y) * slope(torch.zeros_like(q))


def _positive(target: Tensor, pos_weight: Tensor | None) -> Tensor:
    return target if pos_weight is None else pos_weight * target


def _logits_loss(operands: Operands) -> Tensor:
    x, y, weight, sample_weight, pos_weight = operands
    loss: Tensor = formula.logits_loss(torch, x, y, _product(weight, sample_weight), pos_weight)
    return loss


def _product(weight: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    if weight is None or sample_weight is None:
        return sample_weight if weight is None else weight
    return weight * sample_weight


def _divisor(call: Call, input: Tensor) -> int:
    return input.numel() if call.reduction == "mean" else 1


def loss(call: Call, operands: Operands) -> Tensor:
    wide = _widened(operands)
    if call.probabilities and operands[0].dtype == torch.float16 and wide[0].requires_grad:
        wide[0].register_hook(_saturated)
    elements = _probabilities_loss(call, wide) if call.probabilities else _logits_loss(wide)
    dtype = call.dtype.to_complex() if elements.is_complex() else call.dtype
    if call.reduction == "none":
        return elements.to(dtype)
    return (elements.sum() / _divisor(call, operands[0])).to(dtype)


def gradients(call: Call, operands: Operands, incoming: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """d loss / d each operand, times the incoming gradient: itself differentiable."""
    x, y, weight, sample_weight, p = _widened(operands)
    scale = incoming.to(x.dtype) / _divisor(call, operands[0])
    w = _product(weight, sample_weight)

    def fitted(gradient: Tensor, operand: Tensor | None) -> Tensor:
        assert operand is not None
        total = gradient.sum_to_size(operand.shape)
        if call.probabilities and operand.dtype == torch.float16:
            total = _saturated(total)
        return total.to(operand.dtype)

    results: list[Tensor | None] = [None] * 5
    if needed[0]:
        if call.probabilities:
            slope = _probabilities_slope(x, y, p)
            slope = slope if w is None else w * slope
        else:
            slope = formula.logits_gradient(torch, x, y, w, p)
        results[0] = fitted(scale * slope, operands[0])
    if needed[1]:
        if call.probabilities:
            slope = formula.probabilities_gradient_to_target(torch, x, w, p)
        else:
            slope = formula.logits_gradient_to_target(torch, x, w, p)
        results[1] = fitted(scale * slope, operands[1])
    if needed[2] or needed[3]:
        bare = (x, y, None, None, p)
        bracket = scale * (_probabilities_loss(call, bare) if call.probabilities else _logits_loss(bare))
        if needed[2]:
            results[2] = fitted(bracket if sample_weight is None else bracket * sample_weight, operands[2])
        if needed[3]:
            results[3] = fitted(bracket if weight is None else bracket * weight, operands[3])
    if needed[4]:
        if call.probabilities:
            slope = formula.probabilities_gradient_to_pos_weight(torch, x, y, w)
        else:
            slope = formula.logits_gradient_to_pos_weight(torch, x, y, w)
        results[4] = fitted(scale * slope, operands[4])
    return tuple(results)
