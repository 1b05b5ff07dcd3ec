"""The loss as a primitive of JAX, with its tangent and its gradient: their derivatives, batching and lowering.

The tangent is linear in the change of the input, and its transpose is the gradient: so reverse mode reaches the kernel,
and forward mode the formula. Target, weights and pos_weight have derivatives in closed formulas. A derivative of a
higher order is that of a formula.

Under one ``jax.jit`` the loss that is differentiated makes the gradient in the same pass, for an incoming gradient of
1, and the gradient takes that over: it returns it, or, for any other incoming gradient, runs again in its memory.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax._src.dispatch import prim_requires_devices_during_lowering
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from binxent import formula, options
from binxent.jax import cpu, definition
from binxent.jax.definition import Array, Operands, Plan, arithmetic, losses, mean, product, reduced

if TYPE_CHECKING:
    from collections.abc import Callable

loss_p = Primitive("binxent_loss")  # a second result, if the plan is fused: the gradient
tangent_p = Primitive("binxent_tangent")  # of the tangent, that gradient if the plan is fused, and the operands
gradient_p = Primitive("binxent_gradient")  # of the incoming gradient, brought to the operands' rank, and so on


def _loss(*operands: Any, plan: Plan) -> list[Array]:
    loss = definition.loss(*operands, plan=plan)
    if not plan.fused:
        return [loss]
    one = jnp.ones((1,) * operands[0].ndim, loss.dtype)
    return [loss, definition.gradient(one, *operands, plan=plan)]


def _tangent(along: Any, *operands: Any, plan: Plan) -> list[Array]:
    return [definition.tangent(along, *operands[plan.fused :], plan=plan)]


def _gradient(incoming: Any, *operands: Any, plan: Plan) -> list[Array]:
    return [definition.gradient(incoming, *operands[plan.fused :], plan=plan)]


@functools.lru_cache(maxsize=4096)
def _types_of_results(fun: Callable[..., Any], plan: Plan, *types: Any) -> Any:
    return jax.make_jaxpr(functools.partial(fun, plan=plan))(*types).out_avals


def _define(primitive: Primitive, fun: Callable[..., Any]) -> None:
    primitive.multiple_results = True
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(lambda *types, plan: _types_of_results(fun, plan, *types))
    mlir.register_lowering(primitive, mlir.lower_fun(fun, multiple_results=True))

    def batch(operands: Any, axes: Any, *, plan: Plan) -> Any:
        moved = [a[None] if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True)]
        results = primitive.bind(*moved, plan=plan._replace(outer=plan.outer + 1))
        return results, [0] * len(results)

    batching.primitive_batchers[primitive] = batch


_define(loss_p, _loss)
_define(tangent_p, _tangent)
_define(gradient_p, _gradient)
mlir.register_lowering(loss_p, cpu.lowering(cpu.loss_of_shard, _loss), platform="cpu")
mlir.register_lowering(gradient_p, cpu.lowering(cpu.gradient_of_shard, _gradient), platform="cpu")


def compute(*operands: Any, plan: Plan) -> Array:
    if cpu.several_devices():
        # What divides them is asked for their mesh. JAX has no public name for the wish; elsewhere it is not made,
        # since a program with it cannot be compiled for a mesh without devices, nor for two meshes.
        prim_requires_devices_during_lowering.update((loss_p, gradient_p))
    loss: Array = loss_p.bind(*operands, plan=plan)[0]
    return loss


# Derivatives


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, ad.Zero)


def _tangent_of(fun: Callable[..., Any], operands: Operands, tangents: Any) -> Any:
    """Of any function, along the operands that have a tangent."""
    moving = [k for k, tangent in enumerate(tangents) if _moves(tangent)]

    def along(*values: Any) -> Any:
        moved = dict(zip(moving, values, strict=True))
        return fun(*(moved.get(k, operand) for k, operand in enumerate(operands)))

    return jax.jvp(along, [operands[k] for k in moving], [tangents[k] for k in moving])[1]


def _tangent_along_others(plan: Plan, operands: Operands, tangents: Any) -> list[Array]:
    """What the loss changes by as target, weights and pos_weight change, by their closed formulas."""
    first_after_weights = len(operands) - plan.pos_weight - plan.mask
    if not any(map(_moves, tangents[1 : len(operands) - plan.mask])):
        return []
    values = arithmetic(plan, operands)
    x, y, weights, p, _ = values
    smoothing, gamma = plan.terms.label_smoothing, plan.terms.gamma
    to_target, to_weight, to_pos_weight = (
        (
            formula.probabilities_gradient_to_target,
            formula.probabilities_loss,
            formula.probabilities_gradient_to_pos_weight,
        )
        if plan.probabilities
        else (formula.logits_gradient_to_target, formula.logits_loss, formula.logits_gradient_to_pos_weight)
    )

    def along(k: int) -> Any:
        return values.only(tangents[k].astype(x.dtype))

    each, changes = [], []  # the latter of all weights' product
    if _moves(tangents[1]):
        each.append(to_target(jnp, x, y, product(weights), p, smoothing, gamma) * along(1))
    for k in range(2, first_after_weights):
        if _moves(tangents[k]):
            others = product(weights[: k - 2] + weights[k - 1 :])
            each.append(to_weight(jnp, x, y, others, p, smoothing, gamma) * along(k))
            changes.append(along(k) if others is None else others * along(k))
    if changes and plan.divisor == options.WEIGHTS:  # which changes likewise
        each.append(-mean(plan, losses(plan, values), operands, values) * functools.reduce(jnp.add, changes))
    if plan.pos_weight and _moves(tangents[first_after_weights]):
        each.append(to_pos_weight(jnp, x, y, product(weights), p, smoothing, gamma) * along(first_after_weights))
    return [reduced(plan, functools.reduce(jnp.add, each), operands, values)]


def _loss_jvp(operands: Operands, tangents: Any, *, plan: Plan) -> Any:
    wanted = 1 + plan.fused
    # One loss is likely to be the end of the program, with an incoming gradient of 1; one of several is not.
    fused = plan.fused or (plan.may_fuse and _moves(tangents[0]) and plan.outer == 0 < operands[0].ndim)
    plan = plan._replace(fused=fused)
    loss, *saved = loss_p.bind(*operands, plan=plan)
    parts = tangent_p.bind(tangents[0], *saved, *operands, plan=plan) if _moves(tangents[0]) else []
    parts += _tangent_along_others(plan, operands, tangents)
    # What is saved is only ever handed to the other two, whose derivatives are taken along the operands.
    still = [ad.Zero(jax.typeof(a)) for a in saved]
    return [loss, *saved][:wanted], [functools.reduce(jnp.add, parts), *still][:wanted]


def _define_linear(primitive: Primitive, fun: Callable[..., Any]) -> None:
    """Linear in the first operand. Along the others the derivative is the formula's; what was saved depends on them."""

    def jvp(operands: Operands, tangents: Any, *, plan: Plan) -> Any:
        first = 1 + plan.fused
        parts = primitive.bind(tangents[0], *operands[1:], plan=plan) if _moves(tangents[0]) else []
        if any(map(_moves, tangents[first:])):
            along = functools.partial(fun, operands[0], plan=plan._replace(fused=False))
            parts += _tangent_of(along, operands[first:], tangents[first:])
        return primitive.bind(*operands, plan=plan), [functools.reduce(jnp.add, parts)]

    ad.primitive_jvps[primitive] = jvp


def _to_linear(linear: Any, result: Any, operands: Operands) -> Any:
    """The cotangents: vmap may have given the linear operand axes of size 1 that others have in full."""
    axes = tuple(d for d, size in enumerate(linear.aval.shape) if size != result.shape[d])
    return [jnp.sum(result, axes, keepdims=True) if axes else result, *(None for _ in operands)]


def _at_full_rank(plan: Plan, loss: Any, rank: int) -> Any:
    return jnp.expand_dims(loss, range(plan.outer, rank))


def _tangent_transpose(incoming: Any, along: Any, *operands: Any, plan: Plan) -> Any:
    if not _moves(incoming[0]):
        return [None, *(None for _ in operands)]
    incoming = _at_full_rank(plan, incoming[0], along.aval.ndim)
    return _to_linear(along, gradient_p.bind(incoming, *operands, plan=plan)[0], operands)


def _gradient_transpose(along: Any, incoming: Any, *operands: Any, plan: Plan) -> Any:
    if not _moves(along[0]):
        return [None, *(None for _ in operands)]
    loss = tangent_p.bind(along[0], *operands, plan=plan)[0]
    return _to_linear(incoming, _at_full_rank(plan, loss, incoming.aval.ndim), operands)


ad.primitive_jvps[loss_p] = _loss_jvp
_define_linear(tangent_p, _tangent)
_define_linear(gradient_p, _gradient)
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[gradient_p] = _gradient_transpose
