"""Runs the kernel in Paddle's dynamic graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor, _C_ops
from paddle.base.core import CPUPlace

from binxent import kernel
from binxent.kernels import Outputs, native
from binxent.paddle import arrays
from binxent.paddle.arrays import DTYPE
from binxent.targets import SparseRows

if TYPE_CHECKING:
    from binxent.call import Call, Operands

_CPU = CPUPlace()

# Bound once: looking up an attribute of an attribute is measurable in a loss of 64 elements.
_new_tensor, _compute, _Hook, _is_grad_enabled = (
    native.new_tensor,
    native.compute,
    kernel.paddle.Hook,
    paddle.is_grad_enabled,
)

# Elements up to which native code makes a tensor, in half the time. It also makes large ones, in memory that binxent
# reuses. Paddle makes those in between, and counts and caches their memory.
_SMALL = 4096

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or a loss scale. Where another one comes, the kernel runs again, so this only ever decides what is computed twice.
_expected_incoming = 1.0


def _new(like: Tensor, elements: int) -> Any:
    """A tensor of another one's shape and dtype."""
    if elements <= _SMALL or elements * like.element_size() >= kernel.LARGE_MEMORY:
        return _new_tensor(like, False)
    return _C_ops.empty(like.shape, like.dtype, _CPU)


def _version(operands: Operands) -> int:
    """A number that grows with each operation in place on an operand."""
    version: int = operands.input._inplace_version()
    target = operands.target
    if type(target) is not SparseRows:  # whose tensors are made for this call, and known to nobody else
        version += target._inplace_version()
    for operand in (*operands[2:6], operands.neg_weight):
        if operand is not None:
            version += operand._inplace_version()
    return version


def _check_version(operands: Operands, version: int) -> None:
    if _version(operands) != version:
        raise RuntimeError(
            "an operand of the loss was modified by an inplace operation before the backward of the loss; "
            "modify a copy, or modify it after the backward"
        )


def _other_gradient(hook: Any, incoming: Any, differentiable: bool) -> Any:
    """The gradient, where the native hook does not hand over the one that was made with the loss."""
    global _expected_incoming
    call, operands, version = hook.call
    if differentiable:
        _check_version(operands, version)
        return arrays.input_gradient(call, operands, incoming)
    gradient, hook.gradient = hook.gradient, None  # handed over once: Paddle may add to it
    scale = incoming if call.reduction == "none" else incoming.item()
    if gradient is not None and scale == hook.made_for:
        return gradient
    _check_version(operands, version)
    if gradient is None:
        gradient = _new(operands.input, math.prod(operands.input.shape))
    else:
        _expected_incoming = scale
    divisor = None if operands.normalizer is None else 0.0
    _compute(call, operands, Outputs(gradient=gradient), divisor, scale)
    return gradient


def loss(call: Call, operands: Operands, elements: int) -> Any:
    """The loss of operands that are not empty, on CPU, of which only the input may require a gradient."""
    input = operands.input
    by_element, dtype = call.reduction == "none", DTYPE[call.dtype]
    same_dtype = dtype is input.dtype or dtype == input.dtype
    learns = not input.stop_gradient and _is_grad_enabled()
    node: Any = None
    gradient = None
    if learns:
        # Not a PyLayer: Paddle frees a PyLayer in its first backward and ends the process in a second one, whatever
        # retain_graph says. The graph gets the node of an operation that does nothing, and a hook before it, which is
        # called every time.
        if elements <= _SMALL and not by_element:
            node = _C_ops.assign(input)
            gradient = node.detach()
        else:
            node = _C_ops.transpose(input, list(range(len(input.shape))))
            gradient = None if by_element else _new(input, elements)
    elif not paddle.in_dynamic_mode():
        raise TypeError("a paddle.Tensor in a static graph; expected paddle.static.data, or what is made of it")
    if same_dtype:
        value = _new(input, elements) if by_element else _new_tensor(input, True)
    elif learns:
        # A gradient has the dtype of its own tensor, so a cast connects the loss's dtype to the input's.
        if not by_element:
            _new_tensor(input, True)._share_underline_tensor_to(node)
        value = _C_ops.cast(node, dtype)
    else:
        value = _C_ops.empty(input.shape if by_element else [], dtype, _CPU)

    # The same pass makes the gradient that the backward is expected to need, if there is memory for it.
    outputs = Outputs(value, None, gradient) if by_element else Outputs(None, value, gradient)
    incoming = _expected_incoming  # read once: threads write it
    divisor = None if operands.normalizer is None else 0.0  # a normalizer of another number is the call's divisor
    outside = _compute(call, operands, outputs, divisor, incoming)
    if outside:
        # An input is no probability, or ``check_targets`` finds something. The definition refuses the first such one.
        return arrays.loss(call, operands)
    if not learns:
        return value
    hook = _Hook(_other_gradient, (call, operands, _version(operands)), gradient, incoming)
    if same_dtype:
        value._share_underline_tensor_to(node)
        hook.stay_last(node)
        return node
    node._register_grad_hook(hook)
    value._register_grad_hook(hook.hold)
    return _C_ops.unsqueeze(value, [])
