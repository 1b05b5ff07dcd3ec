"""Prepares a call from Python: checks operands, finds what is static, and divides operands over a mesh alike."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters.partial_eval import DynamicJaxprTracer
from jax.sharding import NamedSharding, PartitionSpec

from binxent import definition, formula, options
from binxent.call import FLOATING, Operands, averaged_axes, normalized, plan
from binxent.jax import cpu, operators, sparse
from binxent.jax.arrays import Array, Arrays
from binxent.jax.program import ORDER, Plan
from binxent.jax.sparse import Labels
from binxent.kernels import native
from binxent.options import NO_FOCAL
from binxent.sparse import is_scipy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from binxent.call import Call
    from binxent.formula import Loss
    from binxent.options import Focal

_BROADCAST = ("weight", "sample_weight", "pos_weight", "mask", "neg_weight")
_LEARNT = ("label_smoothing", "gamma")


def checked(name: str, value: Any, *, floating: bool = False) -> Array:
    """An array that the kernel can read."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        hint = options.to_dense(value) or "; wrap it in jax.numpy.asarray(…)"
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}{hint}")
    array = jnp.asarray(value)
    known = FLOATING if floating else tuple(native.TAGS)
    if array.dtype.name not in known:
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; expected one of {', '.join(known)}")
    return array


def refuse_sparse(operands: dict[str, Any]) -> None:
    """Refuses matrices of SciPy, of which jax.jit says nothing but that they are no arrays."""
    for name, operand in operands.items():
        if not isinstance(operand, jax.Array) and is_scipy(operand):
            checked(name, operand)


def _vary_alike(first: Array, others: list[Array]) -> Array:
    """The input, made to vary inside ``jax.shard_map`` over every mesh axis that any operand varies over.

    A ``select`` that always takes the input does it: its transpose sums over the right axes, and XLA removes it.
    """
    always = jnp.ones_like(first, bool)
    for other in others:
        first = jax.lax.select(always, first, jnp.broadcast_to(other, first.shape).astype(first.dtype))
    return first


def divide_alike(operands: list[Array]) -> list[Array]:
    """The operands, each divided over a mesh of explicit axes as any of them is, which ``select`` does not do.

    Operands that contradict one another stay as they are, and JAX refuses them.
    """
    full, shardings = operands[0].shape, [jax.typeof(a).sharding for a in operands]
    axes = [{s.spec[d] for s in shardings} - {None} for d in range(len(full))]
    names = [name for given in axes for part in given for name in (part if isinstance(part, tuple) else (part,))]
    if not names or len({*names}) < len(names) or any(len(given) > 1 for given in axes):
        return operands
    mesh = next(s.mesh for s in shardings if any(s.spec))

    def divide(array: Array) -> Array:
        parts = (next(iter(axes[d]), None) if n == full[d] else None for d, n in enumerate(array.shape))
        spec = PartitionSpec(*parts)
        if jax.typeof(array).sharding.spec == spec:
            return array
        divided: Array = jax.sharding.reshard(array, NamedSharding(mesh, spec))
        return divided

    return [divide(array) for array in operands]


def _known(number: Any) -> Any:
    """The number's value; 0 if only the compiled program will know it."""
    value = _primal(number)
    if isinstance(value, Tracer):
        return 0.0
    return float(value) if isinstance(value, float) else value  # JAX has a subclass that carries a dtype


def static_terms(
    ignore_index: Any, label_smoothing: Any, gamma: Any, target: Any, focal: Focal = NO_FOCAL
) -> options.Terms | None:
    """The static options, which are part of a compiled program's key."""
    if isinstance(ignore_index, Tracer):
        given = "ignore_index: expected a number, got one that is traced"
        raise TypeError(f"{given}; pass it as a static argument of jax.jit, or close over it")
    dtype = "" if ignore_index is None else str(getattr(target, "dtype", "float32"))
    if isinstance(gamma, Tracer):
        options.check_one_gamma(gamma, focal)
    terms = options.terms(ignore_index, _known(label_smoothing), _known(gamma), dtype, focal)
    if terms is not None and terms.ignore_index != terms.ignore_index:
        return terms._replace(ignore_index=math.nan)  # one NaN object for all calls, by which the key is found again
    return terms


def without(terms: options.Terms, traced: Mapping[str, Any]) -> options.Terms:
    """The terms without the options that are operands of the program."""
    smoothing = 0.0 if "label_smoothing" in traced else terms.label_smoothing
    return terms._replace(label_smoothing=smoothing, gamma=0.0 if "gamma" in traced else terms.gamma)


def planned(
    loss: Loss, reduction: str, dtypes: Any, shape: Any, target: Any, shapes: Any, terms: options.Terms | None
) -> Call:
    """The call of these terms, which ``static_terms`` has checked."""
    ignore_index = None if terms is None else terms.ignore_index
    return plan(loss, reduction, dtypes, shape, target, **shapes, ignore_index=ignore_index)._replace(terms=terms)


def number_operand(name: str, value: Any, rank: int) -> Array:
    """A traced option in the given rank. Out of its range it is NaN, because a compiled program cannot raise."""
    array = checked(name, value)
    if array.dtype == bool or math.prod(array.shape) != 1:
        raise TypeError(f"{name}: expected a number, got {array.dtype} of shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.float32)
    valid = jnp.isfinite(array) & (array >= 0)
    if name == "label_smoothing":
        valid &= array <= 1
    array += jnp.where(valid, jnp.zeros_like(array), jnp.nan)  # added, so that the derivatives are NaN too
    return array.reshape((1,) * rank)


def divisor_operand(normalizer: Any, reduction: str) -> Array:
    """The normalizer as an operand, so that a program is not compiled anew for another number."""
    number = options.checked_normalizer(normalizer, reduction)
    if number is None and isinstance(normalizer, (np.ndarray, np.generic)):
        number = options.checked_normalizer(normalizer.item(), reduction)
    if number is not None:
        with jax.enable_x64(True):  # float32 holds integers to 2²⁴ alone
            return jnp.asarray(number, jnp.float64)
    array = checked("normalizer", normalizer)
    if array.dtype == bool:
        raise TypeError("normalizer: expected a number, got an array of bool")
    return array


def target_operands(target: Any, x: Array, others: Sequence[Array]) -> list[Array]:
    """The target as operands: the parts of a sparse one, or, where arrays are divided, one that divides as they do."""
    if not isinstance(target, Labels):
        return [target]
    divided = cpu.several_devices() or jax.sharding.get_abstract_mesh().manual_axes
    if divided or any(any(jax.typeof(array).sharding.spec) for array in (x, *others)):
        return [sparse.dense(target, x.shape, x.dtype)]
    return target.parts()


@functools.partial(jax.jit, static_argnames=("loss", "reduction", "terms", "checks", "may_fuse"), inline=True)
def _compute(
    input: Any,
    target: Any,
    weight: Any,
    sample_weight: Any,
    pos_weight: Any,
    mask: Any,
    label_smoothing: Any,
    gamma: Any,
    normalizer: Any,
    neg_weight: Any,
    *,
    loss: Loss,
    reduction: str,
    terms: options.Terms | None,
    checks: bool,
    may_fuse: bool,
) -> Array:
    operands = Operands(
        input, target, weight, sample_weight, pos_weight, mask, label_smoothing, gamma, normalizer, neg_weight
    )
    arrays: dict[str, Any] = {
        name: operand if isinstance(operand, Labels) else checked(name, operand, floating=name == "input")
        for name in ("input", "target", *ORDER)
        if (operand := getattr(operands, name)) is not None
    }
    x, y = arrays["input"], arrays["target"]
    is_sparse = isinstance(y, Labels)
    if not is_sparse and y.dtype.name in FLOATING:
        dtype = jnp.result_type(x, y)  # a Python number takes the other's type, as everywhere in JAX
        x, y = (a.astype(dtype) if jax.typeof(a).weak_type else a for a in (x, y))
    shapes: Any = {name: arrays[name].shape for name in _BROADCAST if name in arrays}
    dtypes, shape_of_target = (x.dtype.name, y.dtype.name), x.shape if is_sparse else y.shape
    call = planned(loss, reduction, dtypes, x.shape, shape_of_target, shapes, terms)._replace(checks_targets=checks)
    if normalizer is not None:
        call = normalized(call, None)
        arrays["normalizer"] = jax.lax.stop_gradient(arrays["normalizer"]).reshape(())
    if not isinstance(call.divisor, str):
        # As a float: JAX would make int32 of an integer, which from 2³¹ on does not fit.
        call = call._replace(divisor=float(call.divisor))
    if "sample_weight" in arrays:
        arrays["sample_weight"] = jnp.expand_dims(arrays["sample_weight"], range(1, x.ndim))
    if "mask" in arrays:
        arrays["mask"] = jax.lax.stop_gradient(arrays["mask"])
    ranks = tuple(array.ndim for array in [*arrays.values()][2:])
    rest = [
        number_operand(name, array, x.ndim) if name in _LEARNT else jnp.expand_dims(array, range(x.ndim - array.ndim))
        for name, array in [*arrays.items()][2:]
    ]
    names, outer = tuple(arrays)[2:], x.ndim if reduction == "none" else 0
    of_target = target_operands(y, x, rest)
    parts = len(of_target)
    if parts == 1:
        x, *others = divide_alike([x, *of_target, *rest])
        if jax.sharding.get_abstract_mesh().manual_axes:
            x = _vary_alike(x, others)
    else:
        others = [*of_target, *rest]
    return operators.compute(x, *others, plan=Plan(call, names, outer, may_fuse, parts=parts, ranks=ranks))


def _primal(value: Any) -> Any:
    """The value inside the tracers of differentiation; a value without them is returned as it is."""
    while isinstance(value, Tracer) and (primal := getattr(value, "primal", None)) is not None:
        value = primal
    return value


def _under_jit(value: Any) -> bool:
    """Whether it is part of a program that is being traced, seen through differentiation and vmap."""
    while isinstance(value, Tracer) and not isinstance(value, DynamicJaxprTracer):
        value = getattr(value, "primal", getattr(value, "val", None))
    return isinstance(value, DynamicJaxprTracer)


def compute(
    loss: Loss,
    input: Any,
    target: Any,
    weight: Any,
    reduction: str,
    pos_weight: Any,
    sample_weight: Any,
    mask: Any,
    ignore_index: Any,
    label_smoothing: Any,
    gamma: Any,
    normalizer: Any,
    neg_weight: Any = None,
    focal: Focal = NO_FOCAL,
    check_targets: bool = False,
) -> Array:
    if options.check_reduction(reduction) in options.BY_AXIS:
        given = (weight, pos_weight, sample_weight, mask, ignore_index, label_smoothing, gamma)
        return _by_axis(loss, reduction, input, target, given, normalizer, neg_weight, focal, check_targets)
    if sparse.is_target(target):
        target = sparse.labels(target, checked("input", input, floating=True).shape, ignore_index)
    terms = static_terms(ignore_index, label_smoothing, gamma, target, focal)
    numbers = {"label_smoothing": label_smoothing, "gamma": gamma}
    traced = {name: number for name, number in numbers.items() if isinstance(number, Tracer)}
    if terms is not None:
        terms = without(terms, traced)
    if normalizer is not None:
        normalizer = divisor_operand(normalizer, reduction)
    more = {**traced, "normalizer": normalizer, "neg_weight": neg_weight}
    operands = Operands(input, target, weight, sample_weight, pos_weight, mask, **more)
    for name in ("input", "target"):
        if getattr(operands, name) is None:
            checked(name, None)
    refuse_sparse(operands._asdict())
    # Under one jit the backward is in the same program, and can take over the gradient that the loss has made. Outside,
    # that gradient would have to be copied.
    may_fuse = any(map(_under_jit, jax.tree.leaves(operands))) and not cpu.several_devices()
    static: Any = {"loss": loss, "reduction": reduction, "terms": terms, "checks": bool(check_targets)}
    if check_targets and not any(isinstance(_primal(leaf), Tracer) for leaf in jax.tree.leaves(operands)):
        return _checked(operands, static, may_fuse)
    result: Array = _compute(*operands, **static, may_fuse=may_fuse)
    if loss.probabilities:
        known = map(_primal, (result, input, target, mask))
        _refuse_out_of_range(*known, reduction=reduction, ignore_index=terms and terms.ignore_index)
    return result


def _checked(operands: Operands, static: Any, may_fuse: bool) -> Array:
    """The loss of operands whose values are at hand; raises ValueError for what ``check_targets`` refuses."""

    def refuse() -> None:
        known = Operands(*map(_primal, operands))
        if isinstance(known.target, Labels):
            x = jnp.asarray(known.input)
            known = known._replace(target=sparse.dense(known.target, x.shape, x.dtype))
        seen = Operands(*(None if operand is None else np.asarray(operand) for operand in known))
        terms = static["terms"]
        mask = None if seen.mask is None else seen.mask != 0
        keep = formula.kept(seen.target, mask, terms and terms.ignore_index)
        if wrong := definition.wrong_element(seen, keep):
            raise ValueError(wrong)
        if static["loss"].probabilities and formula.only(np, keep, ~formula.in_unit(seen.input)).any():
            raise ValueError(definition.refusal_of_probability("input", seen.input, keep))

    try:
        result: Array = jax.block_until_ready(_compute(*operands, **static, may_fuse=may_fuse))
    except RuntimeError:  # the kernel's own refusal, whose words are those for a compiled program
        refuse()
        raise
    if _may_hide_nan(_primal(result), static["reduction"]):  # the definition's
        refuse()
    return result


def _by_axis(
    loss: Loss,
    reduction: str,
    input: Any,
    target: Any,
    given: Any,
    normalizer: Any,
    *more: Any,
) -> Array:
    """The means over all axes but one, in operations of JAX on the losses of the elements."""
    if normalizer is not None:
        options.check_normalizer(reduction)
    weight, pos_weight, sample_weight, mask, ignore_index, *numbers = given
    x = checked("input", input, floating=True)
    axes = averaged_axes(reduction, x.ndim)
    smoothing, gamma = numbers
    elements = (loss, x, target, weight, "none", pos_weight, sample_weight, mask, ignore_index, smoothing, gamma, None)
    each = compute(*elements, *more)
    keep = jnp.ones((), bool) if mask is None else checked("mask", mask) != 0
    if ignore_index is not None:
        if sparse.is_target(target):
            target = sparse.dense(sparse.labels(target, x.shape, ignore_index), x.shape, x.dtype)
        y = checked("target", target)
        keep = keep & (~jnp.isnan(y) if ignore_index != ignore_index else y != ignore_index)
    kept = jnp.broadcast_to(keep, x.shape).sum(axes, dtype=jnp.uint32)
    wide = jnp.promote_types(each.dtype, jnp.float32)
    counts = jnp.maximum(kept, 1).astype(wide)
    total = each.sum(axes, dtype=wide)
    return (total / jax.lax.stop_gradient(counts)).astype(each.dtype)


def _may_hide_nan(loss: Any, reduction: str) -> bool:
    """Whether the loss of an element may be NaN: the loss is, or a divisor of 0 has made 0 of it."""
    return bool(np.isnan(loss).any() or (reduction != "none" and not np.all(loss)))


def _refuse_out_of_range(
    loss: Any, input: Any, target: Any, mask: Any, *, reduction: str, ignore_index: float | None
) -> None:
    """Raises ValueError if the values are at hand, on CPU, and an element outside [0, 1] has a loss of NaN."""
    if isinstance(loss, Tracer) or not loss.is_fully_addressable:
        return
    if any(device.platform != "cpu" for device in loss.devices()) or not _may_hide_nan(loss, reduction):
        return
    input = np.asarray(input)
    target = np.asarray(sparse.dense(target, input.shape, input.dtype) if isinstance(target, Labels) else target)
    keep = definition.kept(Arrays(), target, None if mask is None else np.asarray(mask), ignore_index)
    for name, array in (("input", input), ("target", target)):
        if formula.only(np, keep, ~formula.in_unit(array)).any():
            raise ValueError(definition.refusal_of_probability(name, array, keep))
