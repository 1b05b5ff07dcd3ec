"""Defines three primitives of JAX, the loss, its tangent and its gradient, with derivatives, batching and lowering.

The tangent is linear in the change of the input, and its transpose is the gradient: reverse mode thus reaches the
kernel, and forward mode the formula. The other operands, except the mask, have derivatives in closed form. Derivatives
of higher order are those of the formula.

Under one ``jax.jit`` a loss that is differentiated also makes, in the same pass, the gradient for an incoming gradient
of 1. The gradient primitive returns that one or, for any other incoming gradient, computes anew in its memory.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.dispatch import prim_requires_devices_during_lowering
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla

from binxent.jax import cpu, program, untaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from binxent.jax.arrays import Array
    from binxent.jax.program import Given, Plan

loss_p = Primitive("binxent_loss")  # a second result, if the plan is fused: the gradient
tangent_p = Primitive("binxent_tangent")  # takes the tangent, that gradient if the plan is fused, and the operands
gradient_p = Primitive("binxent_gradient")  # takes the incoming gradient in the operands' rank, and the same


def _loss(*operands: Any, plan: Plan) -> list[Array]:
    loss = untaped.loss(*operands, plan=plan)
    if not plan.fused:
        return [loss]
    one = jnp.ones((1,) * operands[0].ndim, loss.dtype)
    return [loss, untaped.gradient(one, *operands, plan=plan)]


def _tangent(along: Any, *operands: Any, plan: Plan) -> list[Array]:
    return [program.tangent("input", along, *operands[plan.fused :], plan=plan)]


def _gradient(incoming: Any, *operands: Any, plan: Plan) -> list[Array]:
    return [untaped.gradient(incoming, *operands[plan.fused :], plan=plan)]


def _taped_gradient(incoming: Any, *operands: Any, plan: Plan) -> list[Array]:
    return [program.gradient(incoming, *operands[plan.fused :], plan=plan)]


def _types_of_loss(*operands: Any, plan: Plan) -> list[Any]:
    shape = program.full_shape(*program.broadcasting(plan, operands))
    loss = jax.core.ShapedArray(shape[: plan.outer], np.dtype(plan.call.dtype))
    return [loss, jax.core.ShapedArray(shape, operands[0].dtype)] if plan.fused else [loss]


def _types_of_tangent(along: Any, *operands: Any, plan: Plan) -> list[Any]:
    shape = program.full_shape(along, *program.broadcasting(plan, operands[plan.fused :]))
    return [jax.core.ShapedArray(shape[: plan.outer], np.dtype(plan.call.dtype))]


def _types_of_gradient(incoming: Any, *operands: Any, plan: Plan) -> list[Any]:
    given = program.broadcasting(plan, operands[plan.fused :])
    return [jax.core.ShapedArray(program.full_shape(incoming, *given), given[0].dtype)]


def _is_shape_and_dtype(aval: Any) -> bool:
    """Whether a type says nothing of devices, meshes or memories."""
    same: bool = aval.strip_weak_type() == jax.core.ShapedArray(aval.shape, aval.dtype)
    return same


@functools.lru_cache(maxsize=4096)
def _traced_types(fun: Callable[..., Any], plan: Plan, *types: Any) -> Any:
    return jax.make_jaxpr(functools.partial(fun, plan=plan))(*types).out_avals


def _define(primitive: Primitive, fun: Callable[..., Any], types_of: Callable[..., list[Any]]) -> None:
    def types_of_results(*types: Any, plan: Plan) -> Any:
        # Tracing the formula for its types would take more than half of the time in which a call is traced.
        if all(map(_is_shape_and_dtype, types)):
            return types_of(*types, plan=plan)
        return _traced_types(fun, plan, *types)

    primitive.multiple_results = True
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(types_of_results)
    mlir.register_lowering(primitive, mlir.lower_fun(fun, multiple_results=True))

    def bind_dense(*operands: Any, plan: Plan) -> Any:
        first = 0 if primitive is loss_p else 1 + plan.fused
        plan, given = program.dense(plan, operands[first:])
        return primitive.bind(*operands[:first], *given, plan=plan)

    def batch(operands: Any, axes: Any, *, plan: Plan) -> Any:
        if plan.parts > 1:  # the kernel reads the labels of one item only
            results = jax.vmap(functools.partial(bind_dense, plan=plan), axes)(*operands)
            return results, [0] * len(results)
        moved = [a[None] if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True)]
        results = primitive.bind(*moved, plan=plan._replace(outer=plan.outer + 1))
        return results, [0] * len(results)

    batching.primitive_batchers[primitive] = batch


_define(loss_p, _loss, _types_of_loss)
_define(tangent_p, _tangent, _types_of_tangent)
_define(gradient_p, _gradient, _types_of_gradient)
mlir.register_lowering(loss_p, cpu.lowering(cpu.loss_of_shard, _loss), platform="cpu")
mlir.register_lowering(gradient_p, cpu.lowering(cpu.gradient_of_shard, _gradient), platform="cpu")


def compute(*operands: Any, plan: Plan) -> Array:
    if cpu.several_devices():
        # To divide the operands, lowering must know the devices of their mesh. JAX has no public way to ask for that.
        # It is asked for only here: such a program cannot be compiled for a mesh without devices, nor for two meshes.
        prim_requires_devices_during_lowering.update((loss_p, gradient_p))
    loss: Array = loss_p.bind(*operands, plan=plan)[0]
    return loss


# Derivatives


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, ad.Zero)


def _tangent_of(fun: Callable[..., Any], operands: Given, tangents: Any) -> Any:
    """The tangent of any function, along the operands that have a tangent."""
    moving = [k for k, tangent in enumerate(tangents) if _moves(tangent)]

    def along(*values: Any) -> Any:
        moved = dict(zip(moving, values, strict=True))
        return fun(*(moved.get(k, operand) for k, operand in enumerate(operands)))

    return jax.jvp(along, [operands[k] for k in moving], [tangents[k] for k in moving])[1]


def _tangents_along_others(plan: Plan, operands: Given, tangents: Any) -> list[Array]:
    """The changes of the loss along the other operands, except the mask, by the closed formulas."""
    own = (tangents[1], *tangents[1 + plan.parts :])  # the parts of a sparse target have no tangents
    moving = zip(("target", *plan.given), own, strict=True)
    return [
        program.tangent(name, along, *operands, plan=plan) for name, along in moving if name != "mask" and _moves(along)
    ]


def _loss_jvp(operands: Given, tangents: Any, *, plan: Plan) -> Any:
    wanted = 1 + plan.fused
    # A loss that is one number is likely the program's last, with an incoming gradient of 1; one of many is not.
    fused = plan.fused or (plan.may_fuse and _moves(tangents[0]) and plan.outer == 0 < operands[0].ndim)
    plan = plan._replace(fused=fused)
    loss, *saved = loss_p.bind(*operands, plan=plan)
    parts = tangent_p.bind(tangents[0], *saved, *operands, plan=plan) if _moves(tangents[0]) else []
    parts += _tangents_along_others(plan, operands, tangents)
    # Only the other two primitives take what is saved, and their derivatives are those along the operands: 0 here.
    still = [ad.Zero(jax.typeof(a)) for a in saved]
    return [loss, *saved][:wanted], [functools.reduce(jnp.add, parts), *still][:wanted]


def _define_linear(primitive: Primitive, fun: Callable[..., Any]) -> None:
    """Defines the tangent of a primitive that is linear in its first operand; along the others it is the formula's."""

    def jvp(operands: Given, tangents: Any, *, plan: Plan) -> Any:
        first = 1 + plan.fused
        parts = primitive.bind(tangents[0], *operands[1:], plan=plan) if _moves(tangents[0]) else []
        if any(map(_moves, tangents[first:])):
            along = functools.partial(fun, operands[0], plan=plan._replace(fused=False))
            parts += _tangent_of(along, operands[first:], tangents[first:])
        return primitive.bind(*operands, plan=plan), [functools.reduce(jnp.add, parts)]

    ad.primitive_jvps[primitive] = jvp


def _to_linear(linear: Any, result: Any, operands: Given) -> Any:
    """The cotangents, summed over axes of size 1 that vmap may have given the linear operand."""
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
_define_linear(gradient_p, _taped_gradient)
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[gradient_p] = _gradient_transpose
