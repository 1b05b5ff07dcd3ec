from __future__ import annotations

from typing import Any

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import mint

import binxent.mindspore as bx
from benchmarks.frameworks import OURS, Array, Evaluate, Loss, Way, masked, operands
from benchmarks.grid import BOTH, Case
from benchmarks.timing import Step

PACKAGES = ("mindspore",)
DTYPES = ("float32", "bfloat16", "float16")
MEMORY_KEPT_BY = "mindspore"

own = mint.nn.functional


def of_positions(loss: Loss, option: str | None) -> Loss:
    """The loss with its operands as positional arguments: a graph makes constants of operands that it captures."""

    def plain(x: Any, target: Any) -> Any:
        return loss(x, target)

    def weight(x: Any, target: Any, weight: Any) -> Any:
        return loss(x, target, weight=weight)

    def pos_weight(x: Any, target: Any, pos_weight: Any) -> Any:
        return loss(x, target, pos_weight=pos_weight)

    def mask(x: Any, target: Any, mask: Any) -> Any:
        return loss(x, target, mask=mask)

    return {None: plain, "weight": weight, "pos_weight": pos_weight, "mask": mask}[option]


def step(loss: Loss, x: Any, target: Any, options: dict[str, Any], passes: str, *, graph: bool = False) -> Step:
    run = of_positions(loss, next(iter(options), None))
    if passes == BOTH:
        run = ms.value_and_grad(run)
    if graph:
        run = ms.jit(run)

    def finished() -> None:
        run(x, target, *options.values())
        ms.runtime.synchronize()  # PyNative hands the work to other threads

    return finished


def ways(case: Case) -> dict[str, Way]:
    dtype = getattr(ms, case.dtype)
    arrays = operands(case)
    x, target = (ms.Tensor(a).astype(dtype) for a in arrays[:2])
    options = {n: ms.Tensor(a) if n == "mask" else ms.Tensor(a).astype(dtype) for n, a in arrays[2].items()}
    ours, theirs, their_options = bx.binary_cross_entropy_with_logits, own.binary_cross_entropy_with_logits, options
    if "mask" in options:
        theirs, their_options = masked(theirs), {"mask": options["mask"].astype(dtype)}
    return {
        OURS: Way(step(ours, x, target, options, case.passes)),
        "binxent graph": Way(step(ours, x, target, options, case.passes, graph=True), "binxent graph"),
        "mindspore": Way(step(theirs, x, target, their_options, case.passes)),
        "mindspore graph": Way(step(theirs, x, target, their_options, case.passes, graph=True), "binxent graph"),
    }


def tensor(array: Array) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return ms.Tensor(array.astype(np.float32), ms.bfloat16)
    return ms.Tensor(array)


def array(tensor: Any) -> Array:
    if tensor.dtype == ms.bfloat16:
        return np.asarray(tensor.float().asnumpy()).astype(ml_dtypes.bfloat16)
    return np.asarray(tensor.asnumpy())


def evaluation(loss: Loss) -> Evaluate:
    def evaluate(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
        input, fixed = tensor(x), tensor(target)

        def forward(input: Any) -> Any:
            return loss(input, fixed, reduction=reduction)

        value = array(forward(input))
        ones = tensor(np.ones_like(value))  # in place of a sum, which MindSpore lacks for bfloat16
        return value, array(ms.ops.GradOperation(sens_param=True)(forward)(input, ones))

    return evaluate


def evaluations(probabilities: bool) -> dict[str, Evaluate]:
    name = "binary_cross_entropy" if probabilities else "binary_cross_entropy_with_logits"
    return {OURS: evaluation(getattr(bx, name)), "mindspore": evaluation(getattr(own, name))}
