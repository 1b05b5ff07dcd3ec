"""Computes loss and gradient as XLA compiles them where the kernel does not run: nobody differentiates these.

The results are those of ``program``, from fewer operations. For probabilities that would save none, so ``program``
computes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from binxent import definition, formula
from binxent.jax import program
from binxent.jax.arrays import Array, Arrays

if TYPE_CHECKING:
    from binxent.jax.program import Given, Plan


class _UntapedArrays(Arrays):
    """Adds what ``loss_and_gradient`` needs. XLA changes nothing in place, and makes one loop of all operations."""

    chooses = True
    sign = staticmethod(jnp.sign)
    exp_ = staticmethod(jnp.exp)
    clip_ = staticmethod(jnp.clip)
    log1p_in_unit = staticmethod(jnp.log1p)

    def add_product_(self, total: Array, one: Array, other: Array, sign: float = 1) -> Array:
        return total + sign * one * other


class _ShortArrays(_UntapedArrays):
    """The same, for a loss that is rounded to a half type."""

    log1p_in_unit = staticmethod(formula.short_log1p)


def _prepared(plan: Plan, given: Given, *others: Any) -> tuple[_UntapedArrays, definition.Values]:
    is_half = plan.call.dtype in ("bfloat16", "float16")
    xp = (_ShortArrays if is_half else _UntapedArrays)(program.full_shape(*others, *given), plan.outer)
    return xp, definition.prepare(xp, plan.call, program.named(plan, given))


def loss(*given: Any, plan: Plan) -> Array:
    if plan.call.loss.probabilities:
        return program.loss(*given, plan=plan)
    plan, given = program.dense(plan, given)
    xp, values = _prepared(plan, given)
    each: Any  # not None: it is wanted
    each, _ = definition.loss_and_gradient(xp, plan.call, values, gradient=False)
    return program.reduced(plan, xp, values, each)


def gradient(incoming: Array, *given: Any, plan: Plan) -> Array:
    """The gradient to the input. ``incoming`` has the operands' rank."""
    if plan.call.loss.probabilities:
        return program.gradient(incoming, *given, plan=plan)
    plan, given = program.dense(plan, given)
    xp, values = _prepared(plan, given, incoming)
    _, slope = definition.loss_and_gradient(xp, plan.call, values, loss=False)
    dtype = given[0].dtype.name
    result: Array = definition.gradient_of_slope(xp, plan.call, given[0], values, slope, dtype, incoming)
    return result
