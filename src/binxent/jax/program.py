"""Defines the plan of one loss in a program, and its loss, tangent and gradient by the definition.

Derivatives of higher order are taken of these. Where the kernel does not run, XLA compiles ``untaped`` in their place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from binxent import definition, formula
from binxent.call import Call, Operands
from binxent.jax import sparse
from binxent.jax.arrays import Array, Arrays

# input, target, and the operands that the plan names; of one rank, each axis 1 or full. A sparse target has its parts
# in the target's place.
Given = tuple[Any, ...]


# Arrays, then options that are one number: the kernel takes the last operands for those.
ORDER = ("weight", "sample_weight", "pos_weight", "mask", "neg_weight", "label_smoothing", "gamma", "normalizer")


class Plan(NamedTuple):
    call: Call
    given: tuple[str, ...]  # the names of the operands after input and target, in the order of ``ORDER``
    outer: int  # how many leading axes are not summed: all for "none", and those of vmap
    may_fuse: bool  # whether the kernel may make the gradient along with a loss that is differentiated
    fused: bool = False  # whether the kernel does that
    parts: int = 1  # of how many operands the target is made: those of ``sparse.Labels``, if of several
    ranks: tuple[int, ...] = ()  # which the given operands had before they had the input's, for refusals; () is that

    def divided_by(self, divisor: float) -> Plan:
        return self._replace(call=self.call._replace(divisor=divisor))


def dense(plan: Plan, given: Given) -> tuple[Plan, Given]:
    """The same, with a target that has all its elements."""
    if plan.parts == 1:
        return plan, given
    x, labels, rest = given[0], sparse.Labels(*given[1 : 1 + plan.parts]), given[1 + plan.parts :]
    return plan._replace(parts=1), (x, sparse.dense(labels, x.shape, x.dtype), *rest)


def broadcasting(plan: Plan, given: Given) -> Given:
    """The operands whose shapes broadcast, which the parts of a sparse target do not."""
    return given if plan.parts == 1 else (given[0], *given[1 + plan.parts :])


def full_shape(*arrays: Any) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(tuple(a.shape) for a in arrays))


def named(plan: Plan, given: Given) -> Operands:
    return Operands(*given[:2], **dict(zip(plan.given, given[2:], strict=True)))


def prepared(plan: Plan, given: Given, *others: Any, wide: Any = None) -> tuple[Arrays, definition.Values]:
    xp = Arrays(full_shape(*others, *given), plan.outer, wide)
    return xp, definition.prepare(xp, plan.call, named(plan, given))


def reduced(plan: Plan, xp: Arrays, values: definition.Values, each: Array) -> Array:
    """The reduction of one value per element, without the axes that are summed."""
    total = definition.mean(xp, plan.call, values, each)
    return xp.cast(total.reshape(total.shape[: plan.outer]), plan.call.dtype)


def loss(*given: Any, plan: Plan) -> Array:
    plan, given = dense(plan, given)
    xp, values = prepared(plan, given)
    return reduced(plan, xp, values, definition.elements(xp, plan.call, values))


def tangent(name: str, along: Array, *given: Any, plan: Plan) -> Array:
    """What the loss changes by, to first order, as the operand of that name changes by ``along``."""
    plan, given = dense(plan, given)
    xp, values = prepared(plan, given, along)
    change = formula.only(xp, values.keep, xp.widen(along, plan.call.dtype))
    return reduced(plan, xp, values, definition.slope(xp, plan.call, values, name) * change)


def gradient(incoming: Array, *given: Any, plan: Plan) -> Array:
    """The gradient to the input, the transpose of ``tangent``. ``incoming`` has the operands' rank."""
    plan, given = dense(plan, given)
    xp, values = prepared(plan, given, incoming)
    dtype = given[0].dtype.name
    result: Array = definition.gradient(xp, plan.call, named(plan, given), values, "input", dtype, incoming)
    return result
