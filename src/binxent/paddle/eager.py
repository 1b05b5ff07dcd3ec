"""The kernel in Paddle's dynamic graph."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.base.core import CPUPlace

from binxent import kernel
from binxent.paddle import composite

TAG = {getattr(paddle, name): tag for name, tag in kernel.TAGS.items()}

_CPU = CPUPlace()

# Since Paddle 3.3 native code can look into a tensor, and make one, in half the time. That is for small tensors: it is
# Paddle that counts and caches the memory of those it makes.
_EXCHANGES = hasattr(Tensor, "__dlpack_c_exchange_api__")
_SMALL = 4096

# The gradient is made together with the loss, in one pass, for the incoming gradient that the last backward brought:
# 1, or a loss scale. Where another one comes, the kernel runs again, so this only ever decides what is computed twice.
_expected_incoming = 1.0


def restore_threads() -> None:
    """Importing Paddle sets OMP_NUM_THREADS to 1 where it is not set, and the kernel would take that for a wish."""
    started_with = Path("/proc/self/environ")
    if (
        os.environ.get("OMP_NUM_THREADS") == "1"
        and "BINXENT_NUM_THREADS" not in os.environ
        and kernel.num_threads() == 1
        and started_with.exists()
        and b"OMP_NUM_THREADS=" not in started_with.read_bytes()
    ):
        kernel.set_num_threads(len(os.sched_getaffinity(0)))


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


def refuse_out_of_range(input: Tensor) -> None:
    values = input.astype("float64").numpy()
    first = tuple(int(i) for i in np.argwhere(~((values >= 0) & (values <= 1)))[0])
    element = f"input{list(first)}" if first else "input"
    raise ValueError(
        f"all elements of input should be between 0 and 1, but {element} is {values[first]}; "
        "logits belong to binary_cross_entropy_with_logits"
    )


# probabilities, by_element (the reduction is none), divisor, input, label, weights, pos_weight, version
Call = tuple[bool, bool, float, Any, Any, tuple[Any, ...], Any, int]


def _version(input: Any, label: Any, weights: tuple[Any, ...], pos_weight: Any) -> int:
    """It grows with each operation in place."""
    version: int = input._inplace_version() + label._inplace_version()
    for weight in weights:
        version += weight._inplace_version()
    return version if pos_weight is None else version + pos_weight._inplace_version()


def _new(like: Tensor, elements: int) -> Any:
    """A tensor of another one's shape and dtype."""
    if elements <= _SMALL and _EXCHANGES:
        return kernel.paddle.small_tensor(like, False)
    return _C_ops.empty(like.shape, like.dtype, _CPU)


def _new_scalar(like: Tensor) -> Any:
    return kernel.paddle.small_tensor(like, True) if _EXCHANGES else _C_ops.empty([], like.dtype, _CPU)


def _run(call: Call, loss: Any, gradient: Any) -> int:
    """Write the loss, and, if there is memory for it, the gradient that the backward is expected to need.

    0, unless a label of a probability lies outside [0, 1].
    """
    probabilities, by_element, divisor, input, label, weights, pos_weight, _ = call
    element, value = (loss, None) if by_element else (None, loss)
    factor = _expected_incoming / divisor
    outside = _compute(
        probabilities, input, label, weights, pos_weight, None, None, element, value, gradient, divisor, factor, 0
    )
    if outside and outside & kernel.INPUT_OUT_OF_RANGE:
        refuse_out_of_range(input)
    return outside


def _other_gradient(hook: Any, incoming: Any, differentiable: bool) -> Any:
    """The gradient, where the hook has not the one that is asked for."""
    global _expected_incoming
    call: Call = hook.call
    probabilities, by_element, divisor, input, label, weights, pos_weight, version = call
    if _version(input, label, weights, pos_weight) != version:
        raise RuntimeError(
            "an operand of the loss was modified by an inplace operation before the backward of the loss; "
            "modify a copy, or modify it after the backward"
        )
    if differentiable:
        return composite.gradient(probabilities, divisor, input, label, weights, pos_weight, incoming)
    gradient, hook.gradient = hook.gradient, None  # not kept: Paddle may add to it
    if by_element:
        weights, factor = (*weights, incoming), 1.0
    else:
        incoming = incoming.item()
        factor = incoming / divisor
        if gradient is not None:
            _expected_incoming = incoming
    if gradient is None:
        gradient = _new(input, math.prod(input.shape))
    _compute(probabilities, input, label, weights, pos_weight, None, None, None, None, gradient, divisor, factor, 0)
    return gradient


def loss(
    probabilities: bool,
    reduction: str,
    dtype: Any,
    elements: int,
    input: Any,
    label: Any,
    weights: tuple[Any, ...],
    pos_weight: Any,
) -> Any:
    """Of operands that are not empty, on the processor, of which only the input may ask for a gradient."""
    by_element = reduction == "none"
    divisor = float(elements) if reduction == "mean" else 1.0
    version = _version(input, label, weights, pos_weight)
    call = (probabilities, by_element, divisor, input, label, weights, pos_weight, version)
    same_dtype = dtype is input.dtype or dtype == input.dtype
    learns = not input.stop_gradient and paddle.is_grad_enabled()
    node = gradient = None
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
        value = _C_ops.cast(node, dtype)  # type: ignore[valid-type]
    else:
        value = _C_ops.empty(input.shape if by_element else [], dtype, _CPU)

    if _run(call, value, gradient):
        # Paddle takes labels outside [0, 1] for probabilities too, and the kernel does not.
        return composite.loss(probabilities, reduction, dtype, input, label, weights, pos_weight)
    if not learns:
        return value
    hook = kernel.paddle.Hook(_other_gradient, call, gradient, _expected_incoming)
    if same_dtype:
        value._share_underline_tensor_to(node)
        hook.stay_last(node)
        return node
    node._register_grad_hook(hook)  # type: ignore[union-attr]
    value._register_grad_hook(hook.hold)
    return _C_ops.unsqueeze(value, [])
