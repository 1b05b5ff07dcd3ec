"""Operands for the tests of the MindSpore face, its modes, and both losses beside MindSpore's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, nn

from binxent import formula, kernel
from binxent import mindspore as face
from tests.reference import DTYPES, Array

ms.runtime.launch_blocking()  # else MindSpore raises the error of a call of its own in a later one

KINDS = ("logits", "probabilities")
MODES = ("pynative", "jit", "bytecode", "graph")
COMPILED = ("jit", "graph")
REDUCTIONS = ("mean", "sum", "none")
NAMES = ("input", "target", "weight", "sample_weight", "pos_weight")

OURS = {"logits": face.binary_cross_entropy_with_logits, "probabilities": face.binary_cross_entropy}
MINDSPORES = {
    "logits": mint.nn.functional.binary_cross_entropy_with_logits,
    "probabilities": mint.nn.functional.binary_cross_entropy,
}
OUR_CELLS = {"logits": face.BCEWithLogitsLoss, "probabilities": face.BCELoss}
MINDSPORES_CELLS = {"logits": mint.nn.BCEWithLogitsLoss, "probabilities": mint.nn.BCELoss}


@contextmanager
def context(mode: str) -> Iterator[None]:
    """MindSpore has one mode for the whole process."""
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def in_mode(mode: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the mode runs it."""
    if mode == "graph":

        class Network(nn.Cell):
            def construct(self, *operands):
                return function(*operands)

        network = Network()

        def run(*operands: Any) -> Any:
            with context("graph"):
                return network(*operands)

        return run
    capture = {"jit": "ast", "bytecode": "bytecode"}
    return ms.jit(function, capture_mode=capture[mode]) if mode in capture else function


def tensor(array: Any, dtype: str = "float32") -> Tensor:
    array = np.asarray(array).astype(DTYPES.get(dtype, dtype))
    return Tensor(array.astype(np.float32), ms.bfloat16) if dtype == "bfloat16" else Tensor(array)


def array(tensor: Tensor) -> Array:
    if tensor.dtype == ms.bfloat16:
        return tensor.astype(ms.float32).asnumpy().astype(DTYPES["bfloat16"])
    return tensor.asnumpy()


def as_tensor(operand: Array | None) -> Tensor | None:
    return None if operand is None else tensor(operand, operand.dtype.name)


def operands(
    kind: str,
    shape: tuple[int, ...],
    dtype: str = "float32",
    target: str = "float32",
    given: str = "",
    *,
    seed: int = 0,
) -> list[Array | None]:
    """Input, target, weight, sample_weight and pos_weight, each of the last three if ``given`` has its letter."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 5, shape) if kind == "logits" else rng.uniform(0, 1, shape)
    weights = {
        "w": rng.uniform(0, 2, shape[-1:]),
        "s": rng.uniform(0, 2, shape[:1]),
        "p": rng.uniform(0, 4, shape[-1:]),
    }
    y = rng.uniform(0, 1, shape) if target in DTYPES else rng.integers(0, 2, shape)
    both = [np.asarray(x, DTYPES[dtype]), np.asarray(y, DTYPES.get(target, target))]
    return [*both, *(weights[k].astype(np.float32) if k in given else None for k in "wsp")]


def loss_of(kind: str, reduction: str) -> Callable[..., Tensor]:
    function = OURS[kind]

    def loss(x, y, w, s, p):
        return function(x, y, w, reduction, pos_weight=p, sample_weight=s)

    return loss


def value_and_gradients(
    mode: str, loss: Callable[..., Tensor], given: Sequence[Array | None], wanted: tuple[int, ...] = (0,)
) -> tuple[Array, list[Array], int]:
    """The loss, the wanted gradients, and how often the kernel ran."""
    loss_and_gradients = ms.value_and_grad(loss, wanted)

    def both(x, y, w, s, p):
        return loss_and_gradients(x, y, w, s, p)

    before = kernel.runs()
    value, gradients = in_mode(mode, both)(*map(as_tensor, given))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return array(value), [array(g) for g in gradients], kernel.runs() - before


def first_derivatives(kind: str, given: Sequence[Array | None], incoming: Any) -> list[Array | None]:
    """Of the sum of incoming · loss to each operand, in float64."""
    x, y, w, s, p = (None if o is None else o.astype(np.float64) for o in given)
    column = s if s is None else s.reshape(-1, *[1] * (x.ndim - 1))
    product = w if s is None else column if w is None else w * column

    def to(suffix, *arguments):
        return getattr(formula, f"{kind}_gradient{suffix}")(np, *arguments)

    def fitted(gradient, operand):
        gradient = np.broadcast_to(gradient * incoming, x.shape)
        gradient = gradient.sum(axis=tuple(range(x.ndim - operand.ndim)))
        axes = tuple(i for i, size in enumerate(operand.shape) if size == 1 and gradient.shape[i] != 1)
        return gradient.sum(axis=axes, keepdims=True)

    def bracket(others):
        return getattr(formula, f"{kind}_loss")(np, x, y, others, p)

    return [
        to("", x, y, product, p) * incoming,
        to("_to_target", x, y, product, p) * incoming,
        None if w is None else fitted(bracket(column), w),
        None if s is None else (bracket(w) * incoming).reshape(len(s), -1).sum(1),
        None if p is None else fitted(to("_to_pos_weight", x, y, product), p),
    ]


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[type[Exception] | None, str]:
    try:
        function(*arguments, **options)
    except Exception as problem:
        return type(problem), str(problem)
    return None, ""
