"""Operands for the tests of the Paddle face, and both losses beside Paddle's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class PaddlesTest:
    """The inputs of one of Paddle's unit tests of these losses."""

    kind: str
    shape: tuple[int, ...]
    weight: tuple[int, ...] | None = None
    pos_weight: tuple[int, ...] | None = None
    inputs: str = "uniform"  # in [0.1, 0.8], as logits too; "normal"; or "odds", logits of uniform chances
    soft: bool = False  # the label is uniform in [0, 1], and not 0 or 1

    def __str__(self) -> str:
        weights = [name for name in ("weight", "pos_weight") if getattr(self, name) is not None]
        return "-".join([self.kind, self.inputs, "x".join(map(str, self.shape)), *weights, *["soft"] * self.soft])

    def operands(self) -> tuple[Array, Array, dict[str, Array]]:
        """Input, label, and the weights by name."""
        rng = np.random.default_rng(0)
        chance = rng.uniform(0, 1, self.shape)
        inputs = {"odds": np.log(chance / (1 - chance)), "normal": rng.normal(size=self.shape)}
        input = inputs.get(self.inputs, rng.uniform(0.1, 0.8, self.shape))
        label = rng.random(self.shape) if self.soft else rng.integers(0, 2, self.shape).astype(float)
        draw = rng.normal if self.inputs == "normal" else rng.random
        shapes = {"weight": self.weight, "pos_weight": self.pos_weight}
        return input, label, {name: draw(size=shape) for name, shape in shapes.items() if shape is not None}


PADDLES_TESTS = [
    PaddlesTest("logits", (20, 30)),
    PaddlesTest("logits", (2, 3, 4, 10), weight=(2, 3, 4, 10)),
    PaddlesTest("logits", (2, 3, 4, 10), weight=(2, 3, 4, 10), pos_weight=(3, 4, 10)),
    PaddlesTest("logits", (10, 5), inputs="normal"),
    PaddlesTest("logits", (10, 5), weight=(10, 5), inputs="normal"),
    PaddlesTest("logits", (10, 5), pos_weight=(5,), inputs="normal"),
    PaddlesTest("logits", (10, 5), weight=(10, 5), pos_weight=(5,), inputs="normal"),
    PaddlesTest("logits", (64, 20), inputs="odds"),
    PaddlesTest("logits", (64, 20), inputs="odds", soft=True),
    PaddlesTest("logits", (64, 20), pos_weight=(64, 20), inputs="odds", soft=True),
    PaddlesTest("logits", (10, 10, 20), inputs="odds"),
    PaddlesTest("logits", (10, 10, 20), inputs="odds", soft=True),
    PaddlesTest("probabilities", (20, 30)),
    PaddlesTest("probabilities", (2, 3, 4, 10), weight=(3, 4, 10)),
    PaddlesTest("probabilities", (10, 10)),
    PaddlesTest("probabilities", (2, 3, 4, 5)),
    PaddlesTest("probabilities", (2, 3, 20)),
]


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
