"""The derivatives that each face gives: to every operand, of first and second order.

A new framework is one function here, as in ``faces``. NumPy has no autograd: it has the gradient to the input alone,
which ``test_conformance`` asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.conformance.faces import FACES, Call, function_of

Array = np.ndarray[Any, Any]
Gradients = dict[str, Array]


@dataclass(frozen=True)
class Wanted:
    """Gradients of ``(loss · incoming).sum()`` to the operands of these names.

    With ``along``, of the gradient to the input along that direction instead.
    """

    names: tuple[str, ...]
    incoming: Array
    along: Array | None = None


Derive = Callable[[Call, Wanted], Gradients]


def arrays_of(call: Call) -> dict[str, Array]:
    return {"input": call.input, "target": call.target} | {
        name: value for name, value in call.options.items() if isinstance(value, np.ndarray)
    }


def _numbers(call: Call) -> dict[str, Any]:
    return {name: value for name, value in call.options.items() if not isinstance(value, np.ndarray)}


def _loss(face: Any, call: Call, operands: dict[str, Any]) -> Any:
    rest = {name: operand for name, operand in operands.items() if name not in ("input", "target")}
    return function_of(face, call)(
        operands["input"], operands["target"], reduction=call.reduction, **rest, **_numbers(call)
    )


def _torch(call: Call, wanted: Wanted) -> Gradients:
    import torch

    import binxent.torch as face

    operands = {name: torch.tensor(value) for name, value in arrays_of(call).items()}
    given = [operands[name].requires_grad_() for name in wanted.names]
    total = (_loss(face, call, operands) * torch.tensor(wanted.incoming)).sum()
    if wanted.along is not None:
        (slope,) = torch.autograd.grad(total, operands["input"].requires_grad_(), create_graph=True)
        total = (slope * torch.tensor(wanted.along)).sum()
    found = torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True)
    return {name: gradient.numpy() for name, gradient in zip(wanted.names, found, strict=True)}


def _paddle(call: Call, wanted: Wanted) -> Gradients:
    import paddle

    import binxent.paddle as face

    operands = {name: paddle.to_tensor(value) for name, value in arrays_of(call).items()}
    for name in {*wanted.names, "input"}:
        operands[name].stop_gradient = False
    given = [operands[name] for name in wanted.names]
    total = (_loss(face, call, operands) * paddle.to_tensor(wanted.incoming)).sum()
    if wanted.along is not None:
        (slope,) = paddle.grad(total, operands["input"], create_graph=True)
        total = (slope * paddle.to_tensor(wanted.along)).sum()
    found = paddle.grad(total, given, allow_unused=True)
    return {
        name: np.zeros_like(arrays_of(call)[name]) if gradient is None else gradient.numpy()
        for name, gradient in zip(wanted.names, found, strict=True)
    }


def _mindspore(call: Call, wanted: Wanted) -> Gradients:
    import mindspore as ms

    import binxent.mindspore as face

    arrays = arrays_of(call)
    fixed = {name: ms.Tensor(value) for name, value in arrays.items()}
    places = {name: place for place, name in enumerate(arrays)}

    def loss(*operands: Any) -> Any:
        return _loss(face, call, {**fixed, **dict(zip(arrays, operands, strict=True))})

    def gradient(function: Any) -> Any:
        return ms.ops.GradOperation(get_all=True, sens_param=True)(function)

    def slope(*operands: Any) -> Any:
        return gradient(loss)(*operands, ms.Tensor(wanted.incoming))[places["input"]]

    operands = [ms.Tensor(value) for value in arrays.values()]
    if wanted.along is None:
        found = gradient(loss)(*operands, ms.Tensor(wanted.incoming))
    else:
        found = gradient(slope)(*operands, ms.Tensor(wanted.along))
    return {name: np.asarray(found[places[name]].asnumpy()) for name in wanted.names}


def _jax(call: Call, wanted: Wanted) -> Gradients:
    import jax
    import jax.numpy as jnp

    import binxent.jax as face

    with jax.enable_x64(True):
        operands = {name: jnp.asarray(value) for name, value in arrays_of(call).items()}

        def total(given: dict[str, Any]) -> Any:
            return (_loss(face, call, {**operands, **given}) * wanted.incoming).sum()

        def sloped(given: dict[str, Any]) -> Any:
            def of_input(input: Any) -> Any:
                return total({**operands, **given, "input": input})

            return (jax.grad(of_input)({**operands, **given}["input"]) * wanted.along).sum()

        found = jax.grad(total if wanted.along is None else sloped)({name: operands[name] for name in wanted.names})
        return {name: np.asarray(gradient) for name, gradient in found.items()}


DERIVE: dict[str, Derive] = {"torch": _torch, "paddle": _paddle, "mindspore": _mindspore, "jax": _jax}
DIFFERENTIABLE = [face for face in FACES if face.name in DERIVE]
