"""What a mean divides by, without the loss: to be added up over micro-batches and devices."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from binxent import definition, options, sparse
from binxent.call import KEPT, WEIGHTS, Operands, plan
from binxent.formula import LOGITS
from binxent.jax.arrays import Arrays
from binxent.jax.calls import checked, divide_alike, refuse_sparse, static_terms
from binxent.jax.sparse import dense, is_target, labels

if TYPE_CHECKING:
    from jax.typing import ArrayLike

    from binxent.jax.arrays import Array
    from binxent.options import Terms
    from binxent.targets import IndexTargets


@functools.partial(jax.jit, static_argnames=("reduction", "terms"), inline=True)
def _count(target: Any, weight: Any, sample_weight: Any, mask: Any, *, reduction: str, terms: Terms | None) -> Array:
    given = {"target": target, "weight": weight, "sample_weight": sample_weight, "mask": mask}
    arrays = {name: checked(name, array) for name, array in given.items() if array is not None}
    shape, dtypes = arrays["target"].shape, ("float64", arrays["target"].dtype.name)
    shapes: dict[str, Any] = {name: array.shape for name, array in arrays.items() if name != "target"}
    ignore_index = None if terms is None else terms.ignore_index
    call = plan(LOGITS, reduction, dtypes, shape, shape, **shapes, ignore_index=ignore_index)
    if call.divisor not in (KEPT, WEIGHTS):
        return jnp.asarray(shape[0] if reduction == "batchmean" else math.prod(shape), float)
    if call.divisor == KEPT:  # the sum of weights of 1, which is exact to 2⁵³, as no sum of JAX's integers is
        arrays = {name: array for name, array in arrays.items() if name in ("target", "mask")}
        arrays["weight"] = jnp.ones((), arrays["target"].dtype)
        call = call._replace(divisor=WEIGHTS)
    if "sample_weight" in arrays:
        arrays["sample_weight"] = jnp.expand_dims(arrays["sample_weight"], range(1, len(shape)))
    full = {name: jnp.expand_dims(array, range(len(shape) - array.ndim)) for name, array in arrays.items()}
    full = dict(zip(full, divide_alike([*full.values()]), strict=True))
    with jax.enable_x64(True):
        xp = Arrays(shape, wide=jnp.float64)
        values = definition.prepare(xp, call, Operands(input=full["target"], **full))
        counted: Array = definition.measured(xp, call, values).reshape(())
    return jax.lax.stop_gradient(counted.astype(float))


def count(
    target: ArrayLike | IndexTargets,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
    ignore_index: float | None = None,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Array:
    """Returns what the mean of these targets divides by.

    The elements that are kept for ``"mean"``; the sum of their weights for ``"weighted_mean"``, or their number where
    there are none; the size of the first axis for ``"batchmean"``. The sum over micro-batches or devices is the
    ``normalizer=`` with which their losses add up to the mean over all of them.

    Args:
        target, mask, ignore_index, weight, sample_weight: as in ``binary_cross_entropy_with_logits``. ``IndexTargets``
            need ``num_labels`` here, and no offsets.
        reduction: ``"mean"``, ``"batchmean"`` or ``"weighted_mean"``; static under ``jax.jit``, as is ``ignore_index``.

    Returns:
        A scalar of JAX's floating type: float32, or float64 under ``jax_enable_x64``. It is rounded once from float64;
        int32 would overflow unnoticed when the counts of many devices are added.

    Raises:
        ValueError: the reduction divides by nothing, or a shape does not fit.
        TypeError: an argument is no array or number, or of a dtype that is not supported; ``ignore_index`` is traced.

    Examples:
        >>> import jax.numpy as jnp
        >>> count(jnp.array([[1, 0], [1, -100]]), ignore_index=-100)
        Array(3., dtype=float32)
    """
    options.check_countable(reduction)
    if is_target(target):
        shape, absent = sparse.shape_to_count(target, ignore_index), jnp.zeros((), bool)
        # Without ignore_index nothing depends on the labels.
        ignores = ignore_index is not None
        target = dense(labels(target, shape, ignore_index), shape, bool) if ignores else jnp.broadcast_to(absent, shape)
    terms = static_terms(ignore_index, 0.0, 0.0, target)
    refuse_sparse({"target": target, "weight": weight, "sample_weight": sample_weight, "mask": mask})
    result: Array = _count(target, weight, sample_weight, mask, reduction=reduction, terms=terms)
    return result
