"""The loss on JAX arrays: pure functions, and callables that keep their parameters and are pytrees.

On CPU the kernel runs inside compiled programs, on XLA's own threads; elsewhere XLA compiles the formula. Every
transformation of JAX applies, in any order. An exported program has the formula, and needs nothing of binxent.
"""

from __future__ import annotations

import functools
import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters.partial_eval import DynamicJaxprTracer
from jax.sharding import NamedSharding, PartitionSpec

from binxent import formula, kernel, options
from binxent.jax import cpu
from binxent.jax.definition import Array, Plan
from binxent.jax.primitives import compute

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]


def _checked(name: str, value: Any, *, floating: bool = False) -> Array:
    """An array that the kernel can read."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}; wrap it in jax.numpy.asarray(…)")
    array = jnp.asarray(value)
    known = kernel.FLOATING if floating else tuple(kernel.TAGS)
    if array.dtype.name not in known:
        raise TypeError(f"{name}: dtype {array.dtype} is not supported; expected one of {', '.join(known)}")
    return array


def _vary_alike(first: Array, others: list[Array]) -> Array:
    """Inside ``jax.shard_map`` the input varies over the mesh's axes that any operand varies over.

    An ordinary operation on both makes it so, whose transpose adds up what it must; XLA removes it.
    """
    always = jnp.ones_like(first, bool)
    for other in others:
        first = jax.lax.select(always, first, jnp.broadcast_to(other, first.shape).astype(first.dtype))
    return first


def _divide_alike(operands: list[Array]) -> list[Array]:
    """On a mesh of explicit axes, each operand is divided as any of them is: a selection does not see to that itself.

    Where they contradict one another they stay as they are, and JAX refuses them.
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
    """Its value; 0 where only a compiled program will have one."""
    value = _primal(number)
    if isinstance(value, Tracer):
        return 0.0
    return float(value) if isinstance(value, float) else value  # JAX's own floats say more of themselves


def _terms(ignore_index: Any, label_smoothing: Any, gamma: Any, target: Any) -> options.Terms | None:
    """Static: part of the key of a compiled program."""
    if isinstance(ignore_index, Tracer):
        given = "ignore_index: expected a number, got one that is traced"
        raise TypeError(f"{given}; pass it as a static argument of jax.jit, or close over it")
    dtype = "" if ignore_index is None else str(getattr(target, "dtype", "float32"))
    terms = options.terms(ignore_index, _known(label_smoothing), _known(gamma), dtype)
    if terms is not None and terms.ignore_index != terms.ignore_index:
        return terms._replace(ignore_index=math.nan)  # the one NaN that a key is found by again
    return terms


def _number(name: str, value: Any, rank: int) -> Array:
    """A traced option, of the rank given; NaN out of its range, since a compiled program cannot raise."""
    array = _checked(name, value)
    if array.dtype == bool or math.prod(array.shape) != 1:
        raise TypeError(f"{name}: expected a number, got {array.dtype} of shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.float32)
    valid = jnp.isfinite(array) & (array >= 0)
    if name == "label_smoothing":
        valid &= array <= 1
    array += jnp.where(valid, jnp.zeros_like(array), jnp.nan)  # and so are its derivatives
    return array.reshape((1,) * rank)


@functools.partial(jax.jit, static_argnames=("probabilities", "reduction", "terms", "may_fuse"), inline=True)
def _compute(
    input: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    sample_weight: Any,
    mask: Any,
    label_smoothing: Any = None,
    gamma: Any = None,
    *,
    probabilities: bool,
    reduction: str,
    terms: options.Terms | None,
    may_fuse: bool,
) -> Array:
    x = _checked("input", input, floating=True)
    y = _checked("target", target)
    if y.shape != x.shape:
        raise ValueError(f"target: shape {y.shape} must be the same as the input's, {x.shape}")
    rest = []
    if weight is not None:
        rest.append(_checked("weight", weight))
        options.check_broadcast("weight", rest[0].shape, x.shape)
    if sample_weight is not None:
        each = _checked("sample_weight", sample_weight)
        options.check_sample_weight(each.shape, x.shape)
        rest.append(jnp.expand_dims(each, range(1, x.ndim)))
    weighted = bool(rest)
    if pos_weight is not None:
        rest.append(_checked("pos_weight", pos_weight))
        options.check_broadcast("pos_weight", rest[-1].shape, x.shape)
    if mask is not None:
        rest.append(jax.lax.stop_gradient(_checked("mask", mask)))
        options.check_broadcast("mask", rest[-1].shape, x.shape)
    rest = [jnp.expand_dims(a, range(x.ndim - a.ndim)) for a in rest]
    if label_smoothing is not None:
        rest.append(_number("label_smoothing", label_smoothing, x.ndim))
    if gamma is not None:
        rest.append(_number("gamma", gamma, x.ndim))
    if y.dtype.name in kernel.FLOATING:
        dtype = jnp.result_type(x, y)  # a Python number takes the other's type, as everywhere in JAX
        x, y = (a.astype(dtype) if jax.typeof(a).weak_type else a for a in (x, y))
    x, y, *rest = _divide_alike([x, y, *rest])
    if jax.sharding.get_abstract_mesh().manual_axes:
        x = _vary_alike(x, [y, *rest])
    terms = terms or options.Terms()
    plan = Plan(
        probabilities=probabilities,
        pos_weight=pos_weight is not None,
        mask=mask is not None,
        outer=x.ndim if reduction == "none" else 0,
        divisor=options.divisor(reduction, x.shape, selects=options.selects(mask, terms), weighted=weighted),
        terms=terms,
        may_fuse=may_fuse,
        traced_label_smoothing=label_smoothing is not None,
        traced_gamma=gamma is not None,
    )
    return compute(x, y, *rest, plan=plan)


def _primal(value: Any) -> Any:
    """What is differentiated, if it is."""
    while isinstance(value, Tracer) and (primal := getattr(value, "primal", None)) is not None:
        value = primal
    return value


def _under_jit(value: Any) -> bool:
    """Whether it is part of a program that is being traced, seen through differentiation and vmap."""
    while isinstance(value, Tracer) and not isinstance(value, DynamicJaxprTracer):
        value = getattr(value, "primal", getattr(value, "val", None))
    return isinstance(value, DynamicJaxprTracer)


def _call(
    probabilities: bool,
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
) -> Array:
    options.check_reduction(reduction)
    terms = _terms(ignore_index, label_smoothing, gamma, target)
    numbers = {"label_smoothing": label_smoothing, "gamma": gamma}
    traced = {name: number for name, number in numbers.items() if isinstance(number, Tracer)}
    if terms is not None:
        terms = terms._replace(**dict.fromkeys(traced, 0.0))
    operands = (input, target, weight, pos_weight, sample_weight, mask)
    # Under one jit the backward follows in the same program; else what it takes over would have to be copied.
    may_fuse = any(map(_under_jit, (*operands, *traced.values()))) and not cpu.several_devices()
    loss: Array = _compute(
        *operands, **traced, probabilities=probabilities, reduction=reduction, terms=terms, may_fuse=may_fuse
    )
    if probabilities:
        _refuse_out_of_range(*map(_primal, (loss, input, target, mask)), ignore_index=terms and terms.ignore_index)
    return loss


def _refuse_out_of_range(loss: Any, input: Any, target: Any, mask: Any, *, ignore_index: float | None) -> None:
    """Where the values are at hand, on CPU, NaN is followed to an element that is no probability."""
    if isinstance(loss, Tracer) or not loss.is_fully_addressable:
        return
    if any(device.platform != "cpu" for device in loss.devices()) or not np.isnan(loss).any():
        return
    input, target = np.asarray(input), np.asarray(target)
    keep = formula.kept(target, None if mask is None else np.asarray(mask), ignore_index)
    for name, array in (("input", input), ("target", target)):
        outside = np.argwhere(formula.only(np, keep, ~((array >= 0) & (array <= 1))))
        if len(outside):
            first = tuple(int(i) for i in outside[0])
            raise ValueError(options.no_probability(name, first, array[first]))


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
    *,
    sample_weight: Any = None,
    mask: Any = None,
    ignore_index: float | None = None,
    label_smoothing: Any = 0.0,
    gamma: Any = 0.0,
) -> Array:
    """Binary cross-entropy of logits.

    ``w · [p·y·softplus(−x) + (1−y)·softplus(x)]`` for each element, with x the input, y the target, w the weight and
    p the pos_weight; then the mean (divided by the number of elements), the sum, or none.

    Args:
        input: logits, of any shape; float16, bfloat16, float32 or float64.
        target: of the input's shape; any of these dtypes, bool, uint8, int8, int16, int32 or int64. Usually in
            [0, 1], which is not enforced.
        weight: broadcasts to the input.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; ``"batchmean"``, the sum divided by the size of the first axis;
            ``"weighted_mean"``, the sum divided by the sum of the weights (pos_weight does not count). Static under
            ``jax.jit``, as ``ignore_index``.
        pos_weight: broadcasts to the input; multiplies the loss of positives.
        sample_weight: shape [N], along the input's first axis; multiplies ``weight``.
        mask: broadcasts to the input; an element where it is 0 or False is ignored: it adds 0 to the loss, to the
            gradient and to what ``"mean"`` divides by, whatever it holds, NaN too. The mean of nothing is 0.
        ignore_index: elements whose target it is are ignored likewise; an integer such as -100, or NaN.
        label_smoothing: ε in [0, 1]; y·(1−ε) + ε/2 stands for the target.
        gamma: of the focal loss, not negative; the loss of an element is multiplied by what the model gives the wrong
            answer, to this power. It and ``label_smoothing`` are part of a compiled program where they are numbers, and
            its operands, with derivatives, where they are traced; out of range a traced one makes the loss NaN.

    Returns:
        A scalar, or an array of the input's shape for ``"none"``; of the wider floating dtype of input and target.

    Raises:
        TypeError: an argument is no array or number, or of a dtype that is not supported; ``ignore_index`` is traced.
        ValueError: a shape does not fit, the reduction is unknown, or a number is out of its range.

    Differences from ``optax.sigmoid_binary_cross_entropy``, which gives the loss of each element: it reduces, target
    and input do not broadcast, and there are weights and options; float16 and bfloat16 are computed in float32 and
    rounded once.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> target = jnp.ones((10, 64))
        >>> output = jnp.full((10, 64), 1.5)
        >>> loss, gradient = jax.value_and_grad(binary_cross_entropy_with_logits)(output, target)
        >>> print(f"{loss:.4f}", gradient.shape)
        0.2014 (10, 64)
    """
    terms = (ignore_index, label_smoothing, gamma)
    return _call(False, input, target, weight, reduction, pos_weight, sample_weight, mask, *terms)


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    *,
    pos_weight: Any = None,
    sample_weight: Any = None,
    mask: Any = None,
    ignore_index: float | None = None,
    label_smoothing: Any = 0.0,
    gamma: Any = 0.0,
) -> Array:
    """Binary cross-entropy of probabilities.

    ``w · [p·y·(−log q) + (1−y)·(−log(1−q))]`` for each element, with q the input, y the target, w the weight and p
    the pos_weight; both logarithms are clamped at −100. Then the mean, the sum, or none.

    Arguments, results and errors are those of ``binary_cross_entropy_with_logits``; besides, input and target must
    lie in [0, 1]. Called with values on CPU, a ValueError names the first element that does not; inside ``jax.jit``
    or another trace, and on accelerators, such an element is NaN in the loss and in the gradient.

    Examples:
        >>> import jax.numpy as jnp
        >>> binary_cross_entropy(jnp.array([0.5, 0.9]), jnp.array([1, 1]), reduction="none").round(4)
        Array([0.6931, 0.1054], dtype=float32)
    """
    terms = (ignore_index, label_smoothing, gamma)
    return _call(True, input, target, weight, reduction, pos_weight, sample_weight, mask, *terms)


_PARAMETERS = ("weight", "reduction", "pos_weight", *options.Terms._fields)
_L = TypeVar("_L", bound="_Loss")


class _Loss:
    """What the two classes share. They are pytrees: an array that is kept is a leaf, all else is static.

    Of ``label_smoothing`` and ``gamma`` that depends on what was given.
    """

    probabilities: ClassVar[bool]
    weight: Any
    reduction: str
    pos_weight: Any
    ignore_index: float | None
    label_smoothing: Any
    gamma: Any
    _leaves: tuple[str, ...]

    def __post_init__(self) -> None:
        options.check_reduction(self.reduction)
        terms = _terms(self.ignore_index, self.label_smoothing, self.gamma, None)
        if terms is not None and terms.ignore_index is math.nan:
            object.__setattr__(self, "ignore_index", math.nan)
        numbers = (name for name in ("label_smoothing", "gamma") if isinstance(getattr(self, name), jax.Array))
        # Kept, and not asked for again: what JAX puts in the place of a leaf need not be an array.
        object.__setattr__(self, "_leaves", ("weight", "pos_weight", *numbers))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # a NaN that was pickled is another one

    def __call__(self, input: Any, target: Any, *, sample_weight: Any = None, mask: Any = None) -> Array:
        given = (self.weight, self.reduction, self.pos_weight, sample_weight, mask)
        return _call(self.probabilities, input, target, *given, self.ignore_index, self.label_smoothing, self.gamma)

    def __repr__(self) -> str:
        given = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        for name, default in {"weight": None, "pos_weight": None, **options.Terms()._asdict()}.items():
            value = getattr(self, name)
            if name in self._leaves and hasattr(value, "dtype"):
                given[name] = f"{value.dtype}{list(value.shape)}"
            elif value != default:
                given[name] = repr(value)
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in given.items())})"

    def _flatten(self) -> tuple[list[Any], tuple[Any, ...]]:
        static = tuple((name, getattr(self, name)) for name in _PARAMETERS if name not in self._leaves)
        return [getattr(self, name) for name in self._leaves], (self._leaves, static)

    def _flatten_with_keys(self) -> tuple[list[Any], tuple[Any, ...]]:
        leaves, rest = self._flatten()
        return [*zip(map(jax.tree_util.GetAttrKey, self._leaves), leaves, strict=True)], rest

    @classmethod
    def _unflatten(cls: type[_L], rest: tuple[Any, ...], leaves: Iterable[Any]) -> _L:
        names, static = rest
        loss = object.__new__(cls)
        loss.__dict__.update(static, _leaves=names, **dict(zip(names, leaves, strict=True)))
        return loss


def _pytree(cls: type[_L]) -> type[_L]:
    jax.tree_util.register_pytree_with_keys(cls, cls._flatten_with_keys, cls._unflatten, cls._flatten)
    return cls


@_pytree
@dataclass(frozen=True, eq=False, repr=False)
class BCEWithLogitsLoss(_Loss):
    """``binary_cross_entropy_with_logits`` with its parameters kept.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> loss = BCEWithLogitsLoss(reduction="sum", pos_weight=jnp.array([3.0]))
        >>> jax.jit(jax.grad(loss))(jnp.zeros(2), jnp.array([1, 0]))
        Array([-1.5,  0.5], dtype=float32)
    """

    probabilities = False

    weight: Any = None
    reduction: str = "mean"
    pos_weight: Any = None
    _: KW_ONLY
    ignore_index: float | None = None
    label_smoothing: Any = 0.0
    gamma: Any = 0.0


@_pytree
@dataclass(frozen=True, eq=False, repr=False)
class BCELoss(_Loss):
    """``binary_cross_entropy`` with its parameters kept.

    Examples:
        >>> import jax.numpy as jnp
        >>> BCELoss()(jnp.array([0.5]), jnp.array([1])).round(4)
        Array(0.6931, dtype=float32)
    """

    probabilities = True

    weight: Any = None
    reduction: str = "mean"
    _: KW_ONLY
    pos_weight: Any = None
    ignore_index: float | None = None
    label_smoothing: Any = 0.0
    gamma: Any = 0.0
