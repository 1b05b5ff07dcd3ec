"""Operands for the tests of the Paddle face, and both losses beside Paddle's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F  # noqa: N812

from binxent import kernel
from binxent import paddle as face
from tests.reference import DTYPES, Array

KINDS = ("logits", "probabilities")
REDUCTIONS = ("none", "mean", "sum")

OURS = {"logits": face.binary_cross_entropy_with_logits, "probabilities": face.binary_cross_entropy}
PADDLES = {"logits": F.binary_cross_entropy_with_logits, "probabilities": F.binary_cross_entropy}
OUR_LAYERS = {"logits": face.BCEWithLogitsLoss, "probabilities": face.BCELoss}
PADDLES_LAYERS = {"logits": paddle.nn.BCEWithLogitsLoss, "probabilities": paddle.nn.BCELoss}


def tensor(array: Any, dtype: str = "float32", *, learns: bool = False) -> paddle.Tensor:
    array = np.asarray(array).astype(DTYPES.get(dtype, dtype))
    if dtype == "bfloat16":  # to_tensor takes a bfloat16's bits
        result = paddle.to_tensor(array.view(np.uint16), dtype=dtype)
    else:
        result = paddle.to_tensor(array)
    result.stop_gradient = not learns
    return result


def array(tensor: paddle.Tensor) -> Array:
    values = tensor.detach().numpy()
    return values.view(DTYPES["bfloat16"]) if tensor.dtype == paddle.bfloat16 else values


def an_input(kind: str, *shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, shape) if kind == "logits" else rng.uniform(0.01, 0.99, shape)


def uniform(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random(shape)


def gradient_of(loss: paddle.Tensor, input: paddle.Tensor, incoming: Any = None) -> Array:
    """The gradient that one backward adds to an input without one."""
    input.clear_gradient(set_to_zero=False)
    loss.backward(incoming)
    return array(input.grad).copy()


def runs(function: Callable[[], Any]) -> int:
    """How many times the kernel runs in it."""
    before = kernel.runs()
    function()
    return kernel.runs() - before
