"""The kernel in Paddle's dynamic graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.base.core import CPUPlace

from binxent import kernel, options
from binxent.paddle import composite

TAG = {getattr(paddle, name): tag for name, tag in kernel.TAGS.items()}

_CPU = CPUPlace()

# Since Paddle 3.3 native code can look into a tensor, and make one, in half the time. That is for small tensors, and
# for large ones, whose memory binxent keeps: Paddle counts and caches the memory of those that it makes.
_EXCHANGES = hasattr(Tensor, "__dlpack_c_exchange_api__")
_SMALL = 4096

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or a loss scale. Where another one comes, the kernel runs again, so this only ever decides what is computed twice.
_expected_incoming = 1.0


def _address(tensor: Tensor) -> kernel.Operand:
    size = tensor.element_size()
    return tensor.data_ptr(), TAG[tensor.dtype], tuple(tensor.shape), tuple(step * size for step in tensor.strides)


def _compute_by_address(probabilities: bool, *arguments: Any) -> int:
    def operand(argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(operand, argument))
        return _address(argument) if isinstance(argument, Tensor) else argument

    return kernel.compute(probabilities, *map(operand, arguments))


_compute = kernel.compute if _EXCHANGES else _compute_by_address


def refuse_out_of_range(input: Tensor, keep: Tensor | None) -> None:
    values = input.astype("float64").numpy()
    wrong = ~((values >= 0) & (values <= 1))
    first = tuple(int(i) for i in np.argwhere(wrong if keep is None else wrong & keep.numpy())[0])
    raise ValueError(options.no_probability("input", first, values[first]))


# probabilities, by_element (the reduction is none), divisor, operands, terms, version
Call = tuple[bool, bool, float | str, composite.Operands, options.Terms | None, int]


def _version(operands: composite.Operands) -> int:
    """It grows with each operation in place."""
    input, label, weights, pos_weight, mask = operands
    version: int = input._inplace_version() + label._inplace_version()
    for weight in weights:
        version += weight._inplace_version()
    if pos_weight is not None:
        version += pos_weight._inplace_version()
    return version if mask is None else version + mask._inplace_version()


def _new(like: Tensor, elements: int) -> Any:
    """A tensor of another one's shape and dtype."""
    if _EXCHANGES and (elements <= _SMALL or elements * like.element_size() >= kernel.LARGE_MEMORY):
        return kernel.new_tensor(like, False)
    return _C_ops.empty(like.shape, like.dtype, _CPU)


def _new_scalar(like: Tensor) -> Any:
    return kernel.new_tensor(like, True) if _EXCHANGES else _C_ops.empty([], like.dtype, _CPU)


def _check_version(call: Call) -> None:
    *_, operands, _, version = call
    if _version(operands) != version:
        raise RuntimeError(
            "an operand of the loss was modified by an inplace operation before the backward of the loss; "
            "modify a copy, or modify it after the backward"
        )


def _other_gradient(hook: Any, incoming: Any, differentiable: bool) -> Any:
    """The gradient, where the hook cannot hand over the one that was made."""
    global _expected_incoming
    probabilities, by_element, divisor, operands, terms, _ = hook.call
    if differentiable:
        _check_version(hook.call)
        return composite.gradient(probabilities, divisor, operands, terms, incoming)
    gradient, hook.gradient = hook.gradient, None  # not kept: Paddle may add to it
    scale = 1.0 if by_element else incoming.item()
    if gradient is not None and scale == hook.made_for:
        return gradient
    _check_version(hook.call)
    input, label, weights, pos_weight, mask = operands
    if by_element:
        weights = (*weights, incoming)
    if gradient is None:
        gradient = _new(input, math.prod(input.shape))
    else:
        _expected_incoming = scale
    _compute(probabilities, input, label, weights, pos_weight, mask, terms, None, None, gradient, divisor, scale, 0)
    return gradient


def loss(
    probabilities: bool,
    reduction: str,
    dtype: Any,
    elements: int,
    operands: composite.Operands,
    terms: options.Terms | None,
) -> Any:
    """Of operands that are not empty, on the processor, of which only the input may ask for a gradient."""
    input, label, weights, pos_weight, mask = operands
    by_element = reduction == "none"
    divisor: float | str = 1.0
    if reduction == "mean" and mask is terms is None:
        divisor = float(elements)
    elif reduction != "sum" and not by_element:
        selects = options.selects(mask, terms)
        divisor = options.divisor(reduction, input.shape, selects=selects, weighted=bool(weights))
    same_dtype = dtype is input.dtype or dtype == input.dtype
    learns = not input.stop_gradient and paddle.is_grad_enabled()
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
        value = _new(input, elements) if by_element else _new_scalar(input)
    elif learns:
        # A gradient has the dtype of what it is the gradient of: a conversion leads from the loss's to the input's.
        if not by_element:
            _new_scalar(input)._share_underline_tensor_to(node)
        value = _C_ops.cast(node, dtype)
    else:
        value = _C_ops.empty(input.shape if by_element else [], dtype, _CPU)

    # With the loss the gradient that the backward is expected to need, if there is memory for it.
    element, scalar = (value, None) if by_element else (None, value)
    incoming = _expected_incoming  # read once: threads write it
    outside = _compute(
        probabilities, input, label, weights, pos_weight, mask, terms, element, scalar, gradient, divisor, incoming, 0
    )
    if outside:
        if outside & kernel.INPUT_OUT_OF_RANGE:
            refuse_out_of_range(input, composite.kept(label, mask, terms))
        # Paddle takes labels outside [0, 1] for probabilities too, and the kernel does not.
        return composite.loss(probabilities, reduction, dtype, operands, terms)
    if not learns:
        return value
    call = (probabilities, by_element, divisor, operands, terms, _version(operands))
    hook = kernel.paddle.Hook(_other_gradient, call, gradient, incoming)
    if same_dtype:
        value._share_underline_tensor_to(node)
        hook.stay_last(node)
        return node
    node._register_grad_hook(hook)
    value._register_grad_hook(hook.hold)
    return _C_ops.unsqueeze(value, [])
