"""The loss of a linear head, whose logits are made in chunks of labels and never stored.

The gradients are made together with the loss, in one loop of the compiled program, whose passes over a chunk are the
kernel's on CPU. A derivative of higher order differentiates that loop, and so finds the formula's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from binxent import linear
from binxent.call import GIVEN, KEPT, WEIGHTS, Call, Operands, normalized
from binxent.formula import LOGITS
from binxent.jax import operators, program
from binxent.jax.calls import (
    checked,
    divisor_operand,
    number_operand,
    planned,
    static_terms,
    target_operands,
    without,
)
from binxent.jax.counting import count
from binxent.jax.program import Plan
from binxent.jax.sparse import Labels, is_target
from binxent.jax.sparse import labels as sparse_labels
from binxent.options import RefusalError
from binxent.options import focal as given_family

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from binxent.jax.arrays import Array
    from binxent.linear import LinearBCEOptions
    from binxent.options import Terms
    from binxent.targets import IndexTargets

_CHUNK = 16 * 2**20
_NAMES = ("input", "linear_weight", "linear_bias")
_BY_LABEL = ("weight", "pos_weight", "mask")


class _Head(NamedTuple):
    """What is static of one head."""

    call: Call
    labels: int
    step: int
    accumulator: str
    made_for: float  # the incoming gradient that the gradients are made for


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pass(plan: Plan, *operands: Any) -> tuple[Array, Array]:
    """The loss of a chunk, and the gradient to its logits, in one pass of the kernel."""
    loss, gradient = operators.loss_p.bind(*operands, plan=plan)
    return loss, gradient


@_pass.defjvp
def _tangents(plan: Plan, operands: Any, tangents: Any) -> Any:
    """The kernel's results have no derivatives of their own; the definition's have."""
    alone = plan._replace(fused=False)

    def both(*given: Any) -> tuple[Array, Array]:
        loss = program.loss(*given, plan=alone)
        return loss, program.gradient(jnp.ones((1, 1), loss.dtype), *given, plan=alone)

    return jax.jvp(both, operands, tangents)


def _product(one: Array, other: Array, axes: tuple[int, int], dtype: Any) -> Array:
    """The sum of products over an axis of each, rounded to the dtype once."""
    contracted = (((axes[0],), (axes[1],)), ((), ()))
    result: Array = jax.lax.dot_general(one, other, contracted, preferred_element_type=dtype)
    return result


def _chunk(head: _Head, made_of: Any, operands: dict[str, Any], start: Any, size: int) -> tuple[Any, Any]:
    """The operands of one chunk: its part of weight and bias, and those of the loss, in their order."""
    _, w, bias = made_of

    def part(array: Array, axis: int) -> Array:
        if size == head.labels or array.shape[axis] == 1:
            return array
        result: Array = jax.lax.dynamic_slice_in_dim(array, start, size, axis)
        return result

    own = {name: part(array, 1) if name in _BY_LABEL else array for name, array in operands.items() if name != "target"}
    target = operands["target"]
    if isinstance(target, Labels):
        own["target"] = target._replace(first=jnp.asarray(start, jnp.int32))
    else:
        own["target"] = part(target, 1)
    return (part(w, 0), None if bias is None else part(bias.reshape(1, -1), 1)), own


def _loss_of_chunk(
    head: _Head, x: Array, linear_part: Any, own: dict[str, Array], with_gradient: bool
) -> tuple[Array, Any]:
    w, bias = linear_part
    logits = _product(x, w, (1, 1), x.dtype)
    if bias is not None:
        logits = logits + bias
    names = tuple(name for name in program.ORDER if name in own)
    rest = [own[name] for name in names]
    target = target_operands(own["target"], logits, rest)
    run = Plan(head.call, names, 0, False, fused=with_gradient, parts=len(target))
    given = (logits, *target, *rest)
    if with_gradient:
        return _pass(run, *given)
    return operators.loss_p.bind(*given, plan=run)[0], None


def _run(head: _Head, needed: tuple[bool, ...], made_of: Any, operands: dict[str, Any]) -> tuple[Any, Any]:
    """The loss, and the gradients that are needed. All chunks but the last one have the same size."""
    x, w, bias = made_of
    to_input, to_weight, to_bias = needed
    wide = head.accumulator
    one_number = bias is not None and bias.ndim == 0
    kept: dict[str, Any] = {
        "input": jnp.zeros(x.shape, wide) if to_input else None,
        "linear_weight": jnp.zeros(w.shape, w.dtype) if to_weight else None,
        "linear_bias": jnp.zeros(bias.shape, wide) if to_bias else None,
    }

    def turn(kept: dict[str, Any], start: Any, size: int) -> tuple[dict[str, Any], Array]:
        linear_part, own = _chunk(head, made_of, operands, start, size)
        total, gradient = _loss_of_chunk(head, x, linear_part, own, any(needed))
        kept = dict(kept)
        if to_input:
            kept["input"] += _product(gradient, linear_part[0], (1, 0), wide)
        if to_weight:
            found = _product(gradient, x, (0, 0), w.dtype)
            kept["linear_weight"] = jax.lax.dynamic_update_slice_in_dim(kept["linear_weight"], found, start, 0)
        if to_bias:
            found = jnp.sum(gradient, None if one_number else 0, dtype=wide)
            if one_number:
                kept["linear_bias"] += found
            else:
                kept["linear_bias"] = jax.lax.dynamic_update_slice_in_dim(kept["linear_bias"], found, start, 0)
        return kept, total

    whole, rest = divmod(head.labels, head.step)
    totals = jnp.zeros(0, head.call.dtype)
    if whole:
        starts = jnp.arange(whole, dtype=jnp.int32) * head.step
        kept, totals = jax.lax.scan(lambda kept, start: turn(kept, start, head.step), kept, starts)
    if rest or not whole:  # the mean of no labels is NaN
        kept, last = turn(kept, whole * head.step, rest)
        totals = jnp.append(totals, last)
    gradients = (
        None if kept[name] is None else kept[name].astype(operand.dtype)
        for name, operand in zip(_NAMES, made_of, strict=True)
    )
    return jnp.sum(totals) / head.made_for, tuple(gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head_loss(head: _Head, made_of: Any, operands: dict[str, Any]) -> Array:
    loss: Array = _run(head, (False, False, False), made_of, operands)[0]
    return loss


def _forward(head: _Head, made_of: Any, operands: Any) -> tuple[Array, Any]:
    for name, operand in operands.items():
        if name != "mask" and any(part.perturbed for part in jax.tree.leaves(operand)):
            raise NotImplementedError(
                f"{linear.FUNCTION}: a derivative along {name}, which a linear head does not give; close over it, or "
                "call binary_cross_entropy_with_logits on logits of your own"
            )
    needed = tuple(operand is not None and operand.perturbed for operand in made_of)
    values = jax.tree.map(lambda part: part.value, (made_of, operands))
    return _run(head, needed, *values)


def _backward(head: _Head, gradients: Any, incoming: Any) -> tuple[Any, Any]:
    if isinstance(incoming, jax.custom_derivatives.SymbolicZero):
        return (None, None, None), None
    factor = incoming / head.made_for
    return tuple(None if g is None else (g * factor).astype(g.dtype) for g in gradients), None


_head_loss.defvjp(_forward, _backward, symbolic_zeros=True)


@functools.partial(jax.jit, static_argnames=("reduction", "terms", "options"), inline=True)
def _compute(
    made_of: Any, given: dict[str, Any], *, reduction: str, terms: Terms | None, options: LinearBCEOptions
) -> Array:
    x: Any = checked("input", made_of[0], floating=True)
    w: Any = checked("linear_weight", made_of[1], floating=True)
    bias = None if made_of[2] is None else checked("linear_bias", made_of[2], floating=True)
    for name, array in (("linear_weight", w), ("linear_bias", bias)):
        if array is not None and array.dtype != x.dtype:
            raise TypeError(f"{name}: dtype {array.dtype}; expected the input's, {x.dtype}")
    arrays = {name: array if name == "target" else checked(name, array) for name, array in given.items()}
    _, labels = shape = linear.shape_of_logits(x.shape, w.shape, None if bias is None else bias.shape)
    names = (*Operands._fields[2:6], "neg_weight")
    shapes: dict[str, Any] = {name: arrays[name].shape for name in names if name in arrays}
    target = arrays["target"]
    if isinstance(target, Labels):
        of_target, shape_of_target = target.dtype.name, shape
    else:
        target = arrays["target"] = checked("target", target)
        of_target, shape_of_target = target.dtype.name, target.shape
    call = planned(LOGITS, reduction, (x.dtype.name, of_target), shape, shape_of_target, shapes, terms)
    dtype = call.dtype
    made_for = linear.made_for(x.dtype.name, reduction, labels)
    if "normalizer" in arrays:
        call = normalized(call, None)
    elif call.divisor in (KEPT, WEIGHTS):
        counted = {name: arrays[name] for name in ("mask", "weight", "sample_weight") if name in arrays}
        ignored = None if terms is None else terms.ignore_index
        if isinstance(target, Labels):
            if ignored is not None:
                raise RefusalError(
                    "ignore_index", "beside a sparse target what is kept is not counted; pass normalizer=count(…)"
                )
            target = jnp.broadcast_to(jnp.zeros((), bool), shape)
        arrays["normalizer"] = count(target, reduction=reduction, ignore_index=ignored, **counted)
        call = normalized(call, None)
    if call.divisor == GIVEN:
        arrays["normalizer"] = jax.lax.stop_gradient(arrays["normalizer"]).reshape(()) / made_for
    else:
        call = call._replace(divisor=float(call.divisor) / made_for)
    call = linear.call_of_chunks(call)
    if "sample_weight" in arrays:
        arrays["sample_weight"] = arrays["sample_weight"].reshape(-1, 1)
    if "mask" in arrays:
        arrays["mask"] = jax.lax.stop_gradient(arrays["mask"])
    for name, array in arrays.items():
        if name in ("label_smoothing", "gamma"):
            arrays[name] = number_operand(name, array, 2)
        elif not isinstance(array, Labels):
            arrays[name] = jnp.expand_dims(array, range(2 - array.ndim))
    bytes_of_label = linear.bytes_of_label(x.shape[0], x.shape[1], x.dtype.itemsize, casts=False)
    step = linear.labels_of_chunk(labels, bytes_of_label, options.max_chunk_bytes or _CHUNK)
    head = _Head(call, labels, step, options.accumulator(x.dtype.name), made_for)
    result: Array = _head_loss(head, (x, w, bias), arrays).astype(dtype)
    return result


def linear_binary_cross_entropy_with_logits(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike | IndexTargets,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    ignore_index: float | None = None,
    label_smoothing: ArrayLike = 0.0,
    gamma: ArrayLike = 0.0,
    alpha: float | None = None,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0,
    focal: str = "branch",
    neg_weight: ArrayLike | None = None,
    reduction: str = "mean",
    normalizer: ArrayLike | None = None,
    options: LinearBCEOptions | None = None,
) -> Array:
    """Binary cross-entropy of the logits that a linear layer gives; they are made in chunks of labels, never stored.

    ``binary_cross_entropy_with_logits(input @ linear_weight.T + linear_bias, target, …)``, with memory for one chunk,
    and with the gradients made together with the loss.

    Args:
        input: [N, D]; float16, bfloat16, float32 or float64.
        linear_weight: [C, D], of the input's dtype; one row for each label.
        target: [N, C], as in ``binary_cross_entropy_with_logits``. Or sparse, and each chunk reads its own part of
            it: ``IndexTargets``, or outside of ``jax.jit`` SciPy's matrices in CSR format.
        linear_bias: [C]; or one number for all labels, of shape ().
        weight, pos_weight, mask: broadcast to [N, C], as there.
        sample_weight: [N].
        alpha, gamma_positive, gamma_negative, margin, focal, neg_weight: as there.
        ignore_index, label_smoothing, gamma, normalizer: as there. The divisor of a mean is that of all labels.
        reduction: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"weighted_mean"``. ``"none"`` is refused.
        options: how it is computed; see ``LinearBCEOptions``. ``allow_retain_graph`` has no meaning here.

    Returns:
        A scalar, of the wider floating dtype of input and target. Reverse mode differentiates it, to any order, along
        input, linear_weight and linear_bias; nothing is computed for what is not differentiated.

    Raises:
        TypeError: an argument is no array, or of a dtype that is not supported; dtypes of input and weight differ.
        ValueError: a shape does not fit, or an option is out of its range.
        NotImplementedError: a derivative along another operand.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> target = jnp.array([[1, 0, 0], [0, 0, 1]])
        >>> gradient = jax.grad(linear_binary_cross_entropy_with_logits, argnums=1)
        >>> gradient(jnp.ones((2, 4)), jnp.zeros((3, 4)), target).shape
        (3, 4)
    """
    chosen = linear.checked_options(options)
    linear.check_reduction(reduction)
    if is_target(target):
        x, w = checked("input", input, floating=True), checked("linear_weight", linear_weight, floating=True)
        bias = None if linear_bias is None else jnp.shape(linear_bias)
        labels: Any = sparse_labels(target, linear.shape_of_logits(x.shape, w.shape, bias), ignore_index)
    else:
        labels = target
    values = labels.values if isinstance(labels, Labels) else labels
    family = given_family(alpha, gamma_positive, gamma_negative, margin, focal)
    terms = static_terms(ignore_index, label_smoothing, gamma, values, family)
    traced = {
        name: option
        for name, option in (("label_smoothing", label_smoothing), ("gamma", gamma))
        if isinstance(option, Tracer)
    }
    if terms is not None:
        terms = without(terms, traced)
    optional = {"weight": weight, "sample_weight": sample_weight, "pos_weight": pos_weight, "mask": mask}
    optional |= {"neg_weight": neg_weight, **traced}
    given = {"target": labels, **{name: array for name, array in optional.items() if array is not None}}
    if normalizer is not None:
        given["normalizer"] = divisor_operand(normalizer, reduction)
    made_of = (input, linear_weight, linear_bias)
    for name, array in (("input", input), ("linear_weight", linear_weight), ("target", labels)):
        if array is None:
            checked(name, None)
    result: Array = _compute(made_of, given, reduction=reduction, terms=terms, options=chosen)
    return result
