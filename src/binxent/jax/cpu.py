"""Puts the kernel into compiled programs on CPU, for one device or several."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from binxent import definition, formula
from binxent.call import GIVEN, KEPT, WEIGHTS
from binxent.jax.program import Given, Plan, broadcasting, full_shape, prepared
from binxent.kernels import IS_BUILT, native
from binxent.options import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from binxent.jax.arrays import Array

if IS_BUILT:
    jax.ffi.register_ffi_target("binxent", native.xla_handler, platform="cpu")


def several_devices() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() > 1


def _call(plan: Plan, results: tuple[Any, ...], operands: Given, *given: str, **more: Any) -> Sequence[Array]:
    call, terms = plan.call, plan.call.terms or Terms()
    flags = {name: name in given for name in ("incoming", "saved", "loss", "gradient")}
    from_data = isinstance(call.divisor, str)
    ignores = terms.ignore_index is not None
    share = 1.0 if terms.alpha is None else terms.alpha
    ranks = dict(zip(plan.given, plan.ranks or [operands[0].ndim] * len(plan.given), strict=True))
    return jax.ffi.ffi_call("binxent", results, **more)(
        *operands,
        checks_targets=call.checks_targets,
        divided_by=np.int64((GIVEN, KEPT, WEIGHTS).index(call.divisor) if from_data else 0),
        divisor=np.float64(1 if from_data else call.divisor),
        gamma=np.float64(terms.gamma),
        gamma_negative=np.float64(-1 if terms.gamma_negative is None else terms.gamma_negative),
        ignore_index=np.float64(terms.ignore_index if ignores else 0),
        ignores=ignores,
        label_smoothing=np.float64(terms.label_smoothing),
        margin=np.float64(terms.margin),
        mask=np.int64(ranks.get("mask", -1)),
        neg_weight=np.int64(ranks.get("neg_weight", -1)),
        of_p_t=terms.focal == "p_t",
        other_share=np.float64(1 if terms.alpha is None else 1 - share),
        outer=np.int64(plan.outer),
        parts=np.int64(plan.parts),
        pos_weight=np.int64(ranks.get("pos_weight", -1)),
        probabilities=call.loss.probabilities,
        share=np.float64(share),
        traced_gamma="gamma" in plan.given,
        traced_label_smoothing="label_smoothing" in plan.given,
        traced_normalizer="normalizer" in plan.given,
        **flags,
    )


def loss(*operands: Any, plan: Plan, dtype: Any = None) -> Sequence[Array]:
    """The loss and, if the plan is fused, the gradient for an incoming gradient of 1."""
    shape = full_shape(*broadcasting(plan, operands))
    value = jax.ShapeDtypeStruct(shape[: plan.outer], dtype or np.dtype(plan.call.dtype))
    if not plan.fused:
        return _call(plan, (value,), operands, "loss")
    return _call(plan, (value, jax.ShapeDtypeStruct(shape, operands[0].dtype)), operands, "loss", "gradient")


def gradient(incoming: Any, *operands: Any, plan: Plan) -> Sequence[Array]:
    """The gradient. If the plan is fused, the one that the loss saved comes first: it is returned, or overwritten."""
    saved, operands = (operands[:1], operands[1:]) if plan.fused else ((), operands)
    shape = full_shape(incoming, *broadcasting(plan, operands))
    result = jax.ShapeDtypeStruct(shape, operands[0].dtype)
    if saved and saved[0].shape == shape:
        given, aliases = ("incoming", "saved", "gradient"), {1: 0}
        return _call(plan, (result,), (incoming, *saved, *operands), *given, input_output_aliases=aliases)
    return _call(plan, (result,), (incoming, *operands), "incoming", "gradient")


# Arrays on several devices: each device computes its own shard, and only sums (of losses, of what a divisor counts) are
# added between devices.


def _sharding_rule(plan: Plan, mesh: Any, operands: Any, results: Any) -> SdyShardingRule:
    """The rule by which axes divide alike: an axis of full size is the same in all arrays, one of size 1 is not."""
    full = full_shape(*operands)
    own = itertools.count()

    def mapping(array: Any) -> ArrayMapping:
        return ArrayMapping(*(f"axis{d}" if n == full[d] else f"one{next(own)}" for d, n in enumerate(array.shape)))

    return SdyShardingRule(tuple(map(mapping, operands)), tuple(map(mapping, results)))


def _axes(array: Any, d: int) -> tuple[str, ...]:
    """The mesh axes that divide axis d of the array."""
    names = array.sharding.spec[d] if array.sharding else None  # a partitioner may not know it yet
    return () if names is None else names if isinstance(names, tuple) else (names,)


def _spec(mesh: Any, operands: Any) -> list[tuple[str, ...]]:
    """The mesh axes for each axis: those of the first operand that is divided along it, in equal parts."""
    spec: list[tuple[str, ...]] = []
    for d, size in enumerate(full_shape(*operands)):
        taken = {name for names in spec for name in names}
        given = (_axes(a, d) for a in operands if a.shape[d] == size)
        fit = (n for n in given if n and not taken & {*n} and size % math.prod(mesh.shape[k] for k in n) == 0)
        spec.append(next(fit, ()))
    return spec


def _partition(local: Callable[..., Any], plan: Plan, mesh: Any, operands: Any, results: Any) -> Any:
    spec, full = _spec(mesh, operands), full_shape(*operands)

    def sharding(array: Any) -> NamedSharding:
        parts = (spec[d] or None if n == full[d] else None for d, n in enumerate(array.shape))
        return NamedSharding(mesh, PartitionSpec(*parts))

    summed = tuple(name for names in spec[plan.outer :] for name in names)
    fun = functools.partial(local, plan=plan, summed=summed)
    return mesh, fun, jax.tree.map(sharding, results), jax.tree.map(sharding, operands)


def _measured_by_all(plan: Plan, operands: Given, summed: tuple[str, ...]) -> Any:
    """What the divisor counts in all shards together."""
    xp, values = prepared(plan, operands, wide=jnp.float64)
    return jax.lax.psum(definition.measured(xp, plan.call, values).astype(jnp.float64), summed)


def loss_of_shard(*operands: Any, plan: Plan, summed: tuple[str, ...] = ()) -> Sequence[Array]:
    if not summed:
        return loss(*operands, plan=plan)
    divisor = plan.call.divisor
    # A normalizer is known on each device, which divides by it. Any other divisor is that of all shards together.
    own = plan if divisor == GIVEN else plan.divided_by(1.0)
    with jax.enable_x64(True):  # the devices' sums are added in float64 and rounded once
        (part,) = loss(*operands, plan=own, dtype=np.dtype(np.float64))
        total = jax.lax.psum(part, summed)
        if divisor in (KEPT, WEIGHTS):
            total = formula.divided(jnp, total, _measured_by_all(plan, operands, summed).reshape(total.shape))
        elif divisor != GIVEN:
            total /= divisor
        return [total.astype(plan.call.dtype)]


def gradient_of_shard(incoming: Any, *operands: Any, plan: Plan, summed: tuple[str, ...] = ()) -> Sequence[Array]:
    if not summed or plan.call.divisor not in (KEPT, WEIGHTS):
        return gradient(incoming, *operands, plan=plan)
    with jax.enable_x64(True):  # one factor, in float64, as the kernel makes it of a divisor of its own
        factor = formula.divided(jnp, incoming.astype(jnp.float64), _measured_by_all(plan, operands, summed))
        return gradient(factor, *operands, plan=plan.divided_by(1.0))


def _reads(plan: Plan, types: Sequence[Any]) -> bool:
    """Whether the kernel can compute this: it takes one number for an option, and vmap may make several."""
    learnt = sum(name in plan.given for name in ("label_smoothing", "gamma", "normalizer"))
    return IS_BUILT and all(math.prod(a.shape) == 1 for a in types[len(types) - learnt :])


def lowering(local: Callable[..., Any], formula: Callable[..., Any]) -> Any:
    partitioned = custom_partitioning(lambda plan, *operands: local(*operands, plan=plan), static_argnums=(0,))
    partitioned.def_partition(
        functools.partial(_partition, local),
        infer_sharding_from_operands=lambda *given: _partition(local, *given)[2],
        sharding_rule=_sharding_rule,
    )

    def lower(ctx: Any, *operands: Any, plan: Plan) -> Any:
        context = ctx.module_context.axis_context
        alone, divisible = True, False
        if isinstance(context, mlir.ShardingContext):
            alone = context.num_devices == 1
            divisible = None not in (context.device_assignment, context.abstract_mesh) and not plan.fused
        elif isinstance(context, mlir.SPMDAxisContext):  # inside shard_map
            alone = context.manual_axes == {*context.mesh.axis_names}
        if ctx.module_context.lowering_parameters.for_export:
            # An exported program may run beside another version of binxent, or without it. Its sizes may be symbols,
            # and a call of the kernel has them as constants.
            fun = functools.partial(formula, plan=plan)
        elif not _reads(plan, ctx.avals_in):
            fun = functools.partial(formula, plan=plan)
        elif alone:
            fun = functools.partial(local, plan=plan)
        elif divisible:
            fun = functools.partial(partitioned, plan)
        else:
            fun = functools.partial(formula, plan=plan)
        return mlir.lower_fun(fun, multiple_results=True)(ctx, *operands)

    return lower
