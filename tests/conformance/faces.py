"""Every face as one function of NumPy arrays, so that one test can run over all of them.

A new framework is one function here. One that is not installed is left out, as the head of the tests' report says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.reference import DTYPES

Array = np.ndarray[Any, Any]
FLOATING = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Call:
    """One call of the loss: operands, options, and the gradient that comes in at the backward."""

    input: Array
    target: Array
    probabilities: bool = False
    reduction: str = "mean"
    incoming: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)  # weight, pos_weight, sample_weight, mask; and numbers


Outcome = tuple[Array, Array]  # the loss, and the gradient to the input
Evaluate = Callable[[Call], Outcome]


def function_of(face: Any, call: Call) -> Callable[..., Any]:
    """The face's own function."""
    return getattr(face, "binary_cross_entropy" if call.probabilities else "binary_cross_entropy_with_logits")


def _options(call: Call, tensor: Callable[[Array], Any]) -> dict[str, Any]:
    return {name: tensor(o) if isinstance(o, np.ndarray) else o for name, o in call.options.items()}


def _numpy(call: Call) -> Outcome:
    import binxent.numpy as face

    loss = function_of(face, call)(call.input, call.target, reduction=call.reduction, **call.options)
    value, gradient = face.value_and_grad(
        call.input, call.target, reduction=call.reduction, probabilities=call.probabilities, **call.options
    )
    np.testing.assert_array_equal(loss, value)
    return np.asarray(loss), gradient


def _torch(call: Call) -> Outcome:
    import torch

    import binxent.torch as face

    def tensor(array: Array) -> Any:
        """Of the array's strides, where a tensor can have them."""
        if any(step < 0 or step % array.itemsize for step in array.strides) or not array.flags.writeable:
            array = array.copy()
        if array.dtype == DTYPES["bfloat16"]:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def array(tensor: Any) -> Array:
        if tensor.dtype == torch.bfloat16:
            return tensor.detach().view(torch.int16).numpy().view(DTYPES["bfloat16"])
        return tensor.detach().numpy()

    input = tensor(call.input).requires_grad_()
    options = _options(call, tensor)
    loss = function_of(face, call)(input, tensor(call.target), reduction=call.reduction, **options)
    loss.backward(torch.full_like(loss, call.incoming))
    return array(loss), array(input.grad)


def _paddle(call: Call) -> Outcome:
    import paddle

    import binxent.paddle as face

    def tensor(array: Array) -> Any:
        if array.dtype == DTYPES["bfloat16"]:  # its own import reads uint16 as the bits of a bfloat16
            return paddle.to_tensor(np.ascontiguousarray(array).view(np.uint16).reshape(array.shape), dtype="bfloat16")
        return paddle.to_tensor(array)

    def array(tensor: Any) -> Array:
        values: Array = tensor.detach().numpy()
        return values.view(DTYPES["bfloat16"]) if tensor.dtype == paddle.bfloat16 else values

    input = tensor(call.input)
    input.stop_gradient = False
    options = _options(call, tensor)
    loss = function_of(face, call)(input, tensor(call.target), reduction=call.reduction, **options)
    loss.backward(paddle.full_like(loss, call.incoming))
    return array(loss), array(input.grad)


def _mindspore(call: Call) -> Outcome:
    import mindspore as ms

    import binxent.mindspore as face

    def tensor(array: Array) -> Any:
        if array.dtype == DTYPES["bfloat16"]:
            return ms.Tensor(array.astype(np.float32), ms.bfloat16)
        return ms.Tensor(array)

    def array(tensor: Any) -> Array:
        if tensor.dtype == ms.bfloat16:
            return np.asarray(tensor.float().asnumpy()).astype(DTYPES["bfloat16"])
        return np.asarray(tensor.asnumpy())

    options = _options(call, tensor)
    target = tensor(call.target)

    def forward(input: Any) -> Any:
        return function_of(face, call)(input, target, reduction=call.reduction, **options)

    input = tensor(call.input)
    loss = forward(input)
    incoming = tensor(np.full(loss.shape, call.incoming, array(loss).dtype))
    gradient = ms.ops.GradOperation(sens_param=True)(forward)(input, incoming)
    return array(loss), array(gradient)


def _jax(call: Call) -> Outcome:
    import jax
    import jax.numpy as jnp

    import binxent.jax as face

    arrays = (call.input, call.target, *call.options.values())
    double = any(array.dtype.itemsize == 8 for array in arrays if isinstance(array, np.ndarray))
    with jax.enable_x64(double):
        options = _options(call, jnp.asarray)
        target = jnp.asarray(call.target)

        def forward(input: Any) -> Any:
            return function_of(face, call)(input, target, reduction=call.reduction, **options)

        loss, pull_back = jax.vjp(forward, jnp.asarray(call.input))
        (gradient,) = pull_back(jnp.full_like(loss, call.incoming))
        return np.asarray(loss), np.asarray(gradient)


@dataclass(frozen=True)
class Face:
    name: str
    evaluate: Evaluate
    dtypes: tuple[str, ...] = FLOATING
    takes_incoming: bool = True  # whether its backward can be given a gradient other than 1

    @property
    def available(self) -> bool:
        return importlib.util.find_spec(self.name) is not None


FACES = [
    Face("numpy", _numpy, takes_incoming=False),
    Face("torch", _torch),
    Face("paddle", _paddle),
    Face("mindspore", _mindspore, dtypes=FLOATING[:3]),  # MindSpore's own losses refuse float64
    Face("jax", _jax),
]


def parameters(faces: list[Face]) -> list[Any]:
    """For ``pytest.mark.parametrize``: the faces that are installed."""
    return [pytest.param(face, id=face.name) for face in faces if face.available]
