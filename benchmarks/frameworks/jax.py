from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import binxent.jax as bx
from benchmarks.frameworks import OURS, Array, Evaluate, Loss, Way, masked, operands
from benchmarks.grid import BOTH, Case
from benchmarks.timing import Step

PACKAGES = ("jax", "optax")
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEMORY_KEPT_BY = ""


def reduced(each: Any, weight: Any, reduction: str) -> Any:
    if weight is not None:
        each = weight * each
    return {"mean": each.mean, "sum": each.sum, "none": lambda: each}[reduction]()


def with_optax(x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> Any:
    each = optax.sigmoid_binary_cross_entropy(x, target)
    if pos_weight is not None:  # optax has none; the targets are hard
        each = jnp.where(target > 0, pos_weight, 1) * each
    return reduced(each, weight, reduction)


def by_formula(x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> Any:
    """The loss written out, in the stable form of the textbook."""
    shared = jnp.log1p(jnp.exp(-jnp.abs(x)))
    if pos_weight is None:
        each = jnp.maximum(x, 0) - x * target + shared
    else:
        each = (1 - target) * x + (1 + (pos_weight - 1) * target) * (shared + jnp.maximum(-x, 0))
    return reduced(each, weight, reduction)


def step(loss: Loss, x: Any, target: Any, options: dict[str, Any], passes: str) -> Step:
    def forward(x: Any, target: Any, options: dict[str, Any]) -> Any:
        return loss(x, target, **options)

    run = jax.jit(jax.value_and_grad(forward) if passes == BOTH else forward)
    return lambda: jax.block_until_ready(run(x, target, options))


def ways(case: Case) -> dict[str, Way]:
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    arrays = operands(case)
    x, target = (jnp.asarray(a).astype(case.dtype) for a in arrays[:2])
    options = {n: jnp.asarray(a) if n == "mask" else jnp.asarray(a).astype(case.dtype) for n, a in arrays[2].items()}
    losses = {OURS: bx.binary_cross_entropy_with_logits, "optax": with_optax, "formula": by_formula}
    if "mask" in options:
        losses = {name: loss if name == OURS else masked(loss) for name, loss in losses.items()}
    return {name: Way(step(loss, x, target, options, case.passes)) for name, loss in losses.items()}


def evaluation(loss: Loss) -> Evaluate:
    def evaluate(x: Array, target: Array, reduction: str) -> tuple[Array, Array]:
        jax.config.update("jax_enable_x64", x.dtype == np.float64)

        def total(input: Any, target: Any) -> tuple[Any, Any]:
            value = loss(input, target, reduction=reduction)
            return value.sum(), value

        run = jax.jit(jax.value_and_grad(total, has_aux=True))
        (_, value), gradient = run(jnp.asarray(x), jnp.asarray(target))
        return np.asarray(value), np.asarray(gradient)

    return evaluate


def evaluations(probabilities: bool) -> dict[str, Evaluate]:
    if probabilities:
        return {OURS: evaluation(bx.binary_cross_entropy)}
    return {
        OURS: evaluation(bx.binary_cross_entropy_with_logits),
        "optax": evaluation(with_optax),
        "formula": evaluation(by_formula),
    }
