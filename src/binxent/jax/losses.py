"""The two losses as callables that are pytrees, and whose parameters are given once."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import jax

from binxent import options
from binxent.formula import LOGITS, PROBABILITIES, Loss
from binxent.jax.calls import compute, static_terms
from binxent.jax.counting import count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jax.typing import ArrayLike

    from binxent.jax.arrays import Array
    from binxent.targets import IndexTargets

_PARAMETERS = ("weight", "reduction", "pos_weight", "neg_weight", *options.DEFAULTS, "check_targets")
_L = TypeVar("_L", bound="_Loss")


class _Loss:
    """Base of the two classes. They are pytrees: the three weights are leaves, the other parameters static.

    ``label_smoothing`` and ``gamma`` are leaves too if they are given as arrays.
    """

    loss: ClassVar[Loss]
    weight: Any
    reduction: str
    pos_weight: Any
    ignore_index: float | None
    label_smoothing: Any
    gamma: Any
    alpha: float | None
    gamma_positive: float | None
    gamma_negative: float | None
    margin: float
    focal: str
    neg_weight: Any
    check_targets: bool
    _leaves: tuple[str, ...]

    def _family(self) -> options.Focal:
        return options.focal(self.alpha, self.gamma_positive, self.gamma_negative, self.margin, self.focal)

    def __post_init__(self) -> None:
        options.check_reduction(self.reduction)
        terms = static_terms(self.ignore_index, self.label_smoothing, self.gamma, None, self._family())
        if terms is not None and terms.ignore_index is math.nan:
            object.__setattr__(self, "ignore_index", math.nan)
        numbers = (name for name in ("label_smoothing", "gamma") if isinstance(getattr(self, name), jax.Array))
        # Stored now: what JAX later puts in the place of a leaf need not be an array.
        object.__setattr__(self, "_leaves", ("weight", "pos_weight", "neg_weight", *numbers))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # a pickled NaN is another object than math.nan, by which a key is found

    def __call__(
        self,
        input: ArrayLike,
        target: ArrayLike | IndexTargets,
        *,
        weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        normalizer: ArrayLike | None = None,
    ) -> Array:
        """The loss of input and target, as the function of this name computes it."""
        weight = self.weight if weight is None else weight
        pos_weight = self.pos_weight if pos_weight is None else pos_weight
        given = (weight, self.reduction, pos_weight, sample_weight, mask)
        numbers = (self.ignore_index, self.label_smoothing, self.gamma, normalizer)
        more = (self.neg_weight, self._family(), self.check_targets)
        return compute(self.loss, input, target, *given, *numbers, *more)

    def count(
        self, target: ArrayLike | IndexTargets, *, sample_weight: ArrayLike | None = None, mask: ArrayLike | None = None
    ) -> Array:
        """What the mean of these targets divides by; see the function of that name."""
        return count(
            target,
            reduction=self.reduction,
            mask=mask,
            ignore_index=self.ignore_index,
            weight=self.weight,
            sample_weight=sample_weight,
        )

    def __repr__(self) -> str:
        given = {} if self.reduction == "mean" else {"reduction": repr(self.reduction)}
        weights = dict.fromkeys(("weight", "pos_weight", "neg_weight"))
        for name, default in {**weights, **options.DEFAULTS, "check_targets": False}.items():
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
    """``binary_cross_entropy_with_logits`` as a callable, whose parameters are given once.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> loss = BCEWithLogitsLoss(reduction="sum", pos_weight=jnp.array([3.0]))
        >>> jax.jit(jax.grad(loss))(jnp.zeros(2), jnp.array([1, 0]))
        Array([-1.5,  0.5], dtype=float32)
    """

    loss = LOGITS

    weight: ArrayLike | None = None
    reduction: str = "mean"
    pos_weight: ArrayLike | None = None
    _: KW_ONLY
    ignore_index: float | None = None
    label_smoothing: ArrayLike = 0.0
    gamma: ArrayLike = 0.0
    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"
    neg_weight: ArrayLike | None = None
    check_targets: bool = False


@_pytree
@dataclass(frozen=True, eq=False, repr=False)
class BCELoss(_Loss):
    """``binary_cross_entropy`` as a callable, whose parameters are given once.

    Examples:
        >>> import jax.numpy as jnp
        >>> BCELoss()(jnp.array([0.5]), jnp.array([1])).round(4)
        Array(0.6931, dtype=float32)
    """

    loss = PROBABILITIES

    weight: ArrayLike | None = None
    reduction: str = "mean"
    _: KW_ONLY
    pos_weight: ArrayLike | None = None
    ignore_index: float | None = None
    label_smoothing: ArrayLike = 0.0
    gamma: ArrayLike = 0.0
    alpha: float | None = None
    gamma_positive: float | None = None
    gamma_negative: float | None = None
    margin: float = 0
    focal: str = "branch"
    neg_weight: ArrayLike | None = None
    check_targets: bool = False
