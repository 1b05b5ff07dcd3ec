"""What one call computes, and the formula of it in JAX.

XLA compiles the formula where the kernel does not run; derivatives of higher order are taken of it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from binxent import formula, kernel, options

Array = jax.Array
# input, target, weights, then pos_weight and mask if given, and label_smoothing and gamma if traced; of one rank, each
# axis 1 or full
Operands = tuple[Any, ...]


class Plan(NamedTuple):
    probabilities: bool
    pos_weight: bool  # whether there is one
    mask: bool  # likewise
    outer: int  # how many leading axes are not summed: all for "none"; vmap adds its own
    divisor: float | str  # a number, which in an exported program may be a symbol
    terms: options.Terms
    may_fuse: bool  # whether the kernel may make the gradient along with a loss that is differentiated
    traced_label_smoothing: bool = False  # whether it is an operand, and not of the terms
    traced_gamma: bool = False  # likewise
    fused: bool = False  # whether it does


class Values(NamedTuple):
    """The operands in the type that is computed in; 0 in place of what is ignored."""

    input: Array
    target: Array
    weights: Operands
    pos_weight: Array | None
    keep: Array | None  # what is not ignored; None: all
    label_smoothing: formula.Option
    gamma: formula.Option

    def only(self, array: Any) -> Any:
        return formula.only(jnp, self.keep, array)


def full_shape(*operands: Any) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(tuple(a.shape) for a in operands))


def result_dtype(input: Any, target: Any) -> Any:
    """The wider of input and target; an integer target or a weight never widens it."""
    return jnp.promote_types(input.dtype, target.dtype) if target.dtype.name in kernel.FLOATING else input.dtype


def product(weights: Operands) -> Any:
    return functools.reduce(jnp.multiply, weights) if weights else None


def arithmetic(plan: Plan, operands: Operands, dtype: Any = None) -> Values:
    """A probability out of range becomes NaN."""
    if dtype is None:
        dtype = jnp.float64 if "float64" in (operands[0].dtype.name, operands[1].dtype.name) else jnp.float32
    arrays = list(operands)
    gamma = arrays.pop().astype(dtype) if plan.traced_gamma else plan.terms.gamma
    label_smoothing = arrays.pop().astype(dtype) if plan.traced_label_smoothing else plan.terms.label_smoothing
    mask = arrays.pop() if plan.mask else None
    if mask is not None and mask.dtype == jnp.bool:
        mask = mask.astype(jnp.uint8)  # strict promotion compares no boolean with 0
    x, y, *rest = (a.astype(dtype) for a in arrays)
    keep = formula.kept(y, mask, plan.terms.ignore_index)
    if plan.probabilities:
        x = jnp.where((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1), x, jnp.nan)
    x, y, *rest = (formula.only(jnp, keep, a) for a in (x, y, *rest))
    pos_weight = rest.pop() if plan.pos_weight else None
    return Values(x, y, tuple(rest), pos_weight, keep, label_smoothing, gamma)


def _summed(plan: Plan, each: Any, operands: Operands, **options: Any) -> Any:
    """Every axis remains, of size 1 where it is summed."""
    each = jnp.broadcast_to(each, full_shape(each, *operands))
    return jnp.sum(each, axis=tuple(range(plan.outer, each.ndim)), keepdims=True, **options)


def measured(plan: Plan, operands: Operands, values: Values) -> Any:
    """The divisor that the operands give: how much is kept, or its weights; of the operands' rank."""
    if plan.divisor == options.WEIGHTS:
        return _summed(plan, product(values.weights), operands)
    return _summed(plan, values.keep, operands, dtype=jnp.uint32)  # float32 would cease to count at 2²⁴


def divided(plan: Plan, total: Any, operands: Operands, values: Values) -> Any:
    if not isinstance(plan.divisor, str):
        # An array of the sum's dtype: an integer from 2³¹ on would not fit the int32 that JAX makes of it.
        return total / jnp.asarray(plan.divisor, total.dtype)
    return formula.divided(jnp, total, measured(plan, operands, values).astype(total.dtype))


def mean(plan: Plan, each: Any, operands: Operands, values: Values) -> Any:
    """The sum that the plan asks for, divided; of the operands' rank."""
    return divided(plan, _summed(plan, each, operands), operands, values)


def reduced(plan: Plan, each: Any, operands: Operands, values: Values) -> Any:
    total = mean(plan, each, operands, values)
    return total.reshape(total.shape[: plan.outer]).astype(result_dtype(*operands[:2]))


def losses(plan: Plan, values: Values) -> Any:
    """Of each element."""
    each = formula.probabilities_loss if plan.probabilities else formula.logits_loss
    x, y, weights, p, _, *numbers = values
    return values.only(each(jnp, x, y, product(weights), p, *numbers))


def loss(*operands: Any, plan: Plan) -> Any:
    values = arithmetic(plan, operands)
    return reduced(plan, losses(plan, values), operands, values)


def _slopes(plan: Plan, values: Values) -> Any:
    """The derivative of each element's loss to the input."""
    each = formula.probabilities_gradient if plan.probabilities else formula.logits_gradient
    x, y, weights, p, _, *numbers = values
    return each(jnp, x, y, product(weights), p, *numbers)


def tangent(along: Any, *operands: Any, plan: Plan) -> Any:
    """What the loss changes by, to first order, as the input changes by ``along``."""
    values = arithmetic(plan, operands)
    slopes = _slopes(plan, values)
    return reduced(plan, slopes * values.only(along.astype(slopes.dtype)), operands, values)


def gradient(incoming: Any, *operands: Any, plan: Plan) -> Any:
    """To the input, for an incoming gradient of the operands' rank: the transpose of ``tangent``."""
    values = arithmetic(plan, operands)
    slopes = _slopes(plan, values)
    factor = divided(plan, incoming.astype(slopes.dtype), operands, values)
    each = jnp.broadcast_to(values.only(slopes * factor), full_shape(incoming, *operands))
    dtype = operands[0].dtype
    if plan.probabilities and dtype == jnp.float16:
        each = jnp.clip(each, -65504, 65504)  # the bound of the other types, 1e12, is infinite here
    return each.astype(dtype)
