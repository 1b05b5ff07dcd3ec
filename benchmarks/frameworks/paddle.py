from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import paddle

import binxent.paddle as bx
from benchmarks.frameworks import OURS, Array, Evaluate, Loss, Way, masked, operands
from benchmarks.grid import BOTH, Case
from benchmarks.timing import Step

PACKAGES = ("paddlepaddle",)
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEMORY_KEPT_BY = "binxent"

own = paddle.nn.functional


def step(loss: Loss, x: Any, target: Any, options: dict[str, Any], passes: str) -> Step:
    def forward() -> None:
        with paddle.no_grad():
            loss(x, target, **options)

    def both() -> None:
        loss(x, target, **options).backward()
        x.grad = None  # clear_gradient would not free the memory

    return both if passes == BOTH else forward


def ways(case: Case) -> dict[str, Way]:
    arrays = operands(case)
    x, target = (paddle.to_tensor(a).astype(case.dtype) for a in arrays[:2])
    x.stop_gradient = False
    options = {
        n: paddle.to_tensor(a) if n == "mask" else paddle.to_tensor(a).astype(case.dtype) for n, a in arrays[2].items()
    }
    theirs, their_options = own.binary_cross_entropy_with_logits, options
    if "mask" in options:
        theirs, their_options = masked(theirs), {"mask": options["mask"].astype(case.dtype)}
    return {
        OURS: Way(step(bx.binary_cross_entropy_with_logits, x, target, options, case.passes)),
        "paddle": Way(step(theirs, x, target, their_options, case.passes)),
    }


def tensor(array: Array) -> Any:
    if array.dtype == ml_dtypes.bfloat16:  # Paddle reads uint16 as the bits of bfloat16
        return paddle.to_tensor(array.view(np.uint16), dtype="bfloat16")
    return paddle.to_tensor(array)


def array(tensor: Any) -> Array:
    values: Array = tensor.detach().numpy()
    return values.view(ml_dtypes.bfloat16) if tensor.dtype == paddle.bfloat16 else values


def evaluation(loss: Loss) -> Evaluate:
    def evaluate(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
        input = tensor(x)
        input.stop_gradient = False
        value = loss(input, tensor(target), reduction=reduction)
        value.sum().backward()
        return array(value), array(input.grad)

    return evaluate


def evaluations(probabilities: bool) -> dict[str, Evaluate]:
    name = "binary_cross_entropy" if probabilities else "binary_cross_entropy_with_logits"
    return {OURS: evaluation(getattr(bx, name)), "paddle": evaluation(getattr(own, name))}
