"""What one call computes, and the formula of it in JAX.

XLA compiles the formula where the kernel does not run; derivatives of higher order are taken of it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from binxent import formula, kernel

Array = jax.Array
Operands = tuple[Any, ...]  # input, target, weights, pos_weight if there is one; all of one rank, each axis 1 or full


class Plan(NamedTuple):
    probabilities: bool
    pos_weight: bool  # whether there is one
    kept: int  # how many leading axes are not summed: all for "none"; vmap adds its own
    divisor: float
    may_fuse: bool  # whether the kernel may make the gradient along with a loss that is differentiated
    fused: bool = False  # whether it does


def full_shape(*operands: Any) -> tuple[int, ...]:
    return np.broadcast_shapes(*(tuple(a.shape) for a in operands))


def result_dtype(input: Any, target: Any) -> Any:
    """The wider of input and target; an integer target or a weight never widens it."""
    return jnp.promote_types(input.dtype, target.dtype) if target.dtype.name in kernel.FLOATING else input.dtype


def product(weights: Operands, dtype: Any) -> Any:
    return functools.reduce(jnp.multiply, (w.astype(dtype) for w in weights)) if weights else None


def arithmetic(plan: Plan, x: Any, y: Any, *rest: Any) -> tuple[Any, Any, Any, Any]:
    """Input, target, weight and pos_weight in the type that is computed in; NaN where a probability is none."""
    dtype = jnp.float64 if "float64" in (x.dtype.name, y.dtype.name) else jnp.float32
    x, y = x.astype(dtype), y.astype(dtype)
    if plan.probabilities:
        x = jnp.where((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1), x, jnp.nan)
    weights = rest[: len(rest) - plan.pos_weight]
    return x, y, product(weights, dtype), rest[-1].astype(dtype) if plan.pos_weight else None


def reduced(plan: Plan, each: Any, operands: Operands) -> Any:
    each = jnp.broadcast_to(each, full_shape(each, *operands))
    total = jnp.sum(each, axis=tuple(range(plan.kept, each.ndim)))
    return (total / plan.divisor).astype(result_dtype(*operands[:2]))


def loss(*operands: Any, plan: Plan) -> Any:
    each = formula.probabilities_loss if plan.probabilities else formula.logits_loss
    return reduced(plan, each(jnp, *arithmetic(plan, *operands)), operands)


def _slope(plan: Plan, operands: Operands) -> Any:
    """The derivative of each element's loss to the input."""
    each = formula.probabilities_gradient if plan.probabilities else formula.logits_gradient
    return each(jnp, *arithmetic(plan, *operands))


def tangent(along: Any, *operands: Any, plan: Plan) -> Any:
    """What the loss changes by, to first order, as the input changes by ``along``."""
    slope = _slope(plan, operands)
    return reduced(plan, slope * along.astype(slope.dtype), operands)


def gradient(incoming: Any, *operands: Any, plan: Plan) -> Any:
    """To the input, for an incoming gradient of the operands' rank: the transpose of ``tangent``."""
    slope = _slope(plan, operands)
    factor = incoming.astype(slope.dtype) / plan.divisor
    each = jnp.broadcast_to(slope * factor, full_shape(incoming, *operands))
    dtype = operands[0].dtype
    if plan.probabilities and dtype == jnp.float16:
        each = jnp.clip(each, -65504, 65504)  # the bound of the other types, 1e12, is infinite here
    return each.astype(dtype)
