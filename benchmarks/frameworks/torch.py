from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

import binxent.torch as bx
from benchmarks.frameworks import OURS, Array, Evaluate, Loss, Way, masked, operands
from benchmarks.grid import BOTH, Case
from benchmarks.timing import Step

PACKAGES = ("torch",)
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEMORY_KEPT_BY = "binxent"

own = torch.nn.functional


def compiled(loss: Loss) -> Loss:
    # torch.compile does not compile torch's own function by itself, only as part of another.
    return torch.compile(lambda *operands, **options: loss(*operands, **options), dynamic=False)


def step(loss: Loss, x: torch.Tensor, target: torch.Tensor, options: dict[str, Any], passes: str) -> Step:
    def forward() -> None:
        with torch.no_grad():
            loss(x, target, **options)

    def both() -> None:
        loss(x, target, **options).backward()
        x.grad = None

    return both if passes == BOTH else forward


class Source(torch.autograd.Function):
    """Logits as a model returns them: not a leaf, so that the gradient may overwrite them."""

    @staticmethod
    def forward(ctx: Any, seed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        return None, None


def in_place(x: torch.Tensor, target: torch.Tensor, options: dict[str, Any]) -> Step:
    seed = torch.zeros((), requires_grad=True)

    def both() -> None:
        logits = Source.apply(seed, x.detach())
        bx.binary_cross_entropy_with_logits(logits, target, **options, inplace_backward=True).backward()

    return both


def ways(case: Case) -> dict[str, Way]:
    torch._dynamo.reset()  # without it Dynamo would refuse to compile for yet another shape
    dtype = getattr(torch, case.dtype)
    arrays = operands(case)
    x, target = (torch.from_numpy(a).to(dtype) for a in arrays[:2])
    x.requires_grad_()
    options = {n: torch.from_numpy(a) if n == "mask" else torch.from_numpy(a).to(dtype) for n, a in arrays[2].items()}
    ours, theirs = bx.binary_cross_entropy_with_logits, own.binary_cross_entropy_with_logits
    if "mask" in options:
        theirs = masked(theirs)
    found = {
        OURS: Way(step(ours, x, target, options, case.passes)),
        "binxent compiled": Way(step(compiled(ours), x, target, options, case.passes)),
        "torch": Way(step(theirs, x, target, options, case.passes)),
        "torch.compile": Way(step(compiled(theirs), x, target, options, case.passes)),
    }
    if case.passes == BOTH:
        # It has logits of its own, because each step overwrites them.
        found["binxent in place"] = Way(in_place(x.detach().clone(), target, options))
    return found


def tensor(array: Array) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def evaluation(loss: Loss) -> Evaluate:
    def evaluate(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
        input = tensor(x).clone().requires_grad_()
        value = loss(input, tensor(target), reduction=reduction)
        value.sum().backward()
        return array(value), array(input.grad)

    return evaluate


def evaluations(probabilities: bool) -> dict[str, Evaluate]:
    name = "binary_cross_entropy" if probabilities else "binary_cross_entropy_with_logits"
    theirs = getattr(own, name)
    return {
        OURS: evaluation(getattr(bx, name)),
        "torch": evaluation(theirs),
        "torch.compile": evaluation(compiled(theirs)),
    }
