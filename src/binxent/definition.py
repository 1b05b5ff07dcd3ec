"""Defines a whole call on any array library, from ``formula``'s definition of one element.

Every test compares with it, and a face computes it where no kernel can read its arrays: under transforms and tracing,
for derivatives of higher order, and on other devices. ``xp`` is the face's adapter, an ``Arrays``.

Operands are first cast to the arithmetic's type (half types to float32) and set to 0 where an element is ignored, so
that not even a NaN there reaches a sum or a derivative. Results are rounded once, at the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from binxent import focal, focal_curvature, formula
from binxent.call import GIVEN, KEPT, ROWS, SIZE, WEIGHTS
from binxent.options import Terms, is_family, no_probability, wrong_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from binxent.call import Call, Operands
    from binxent.formula import Loss

Array = Any
LARGEST_FLOAT16 = 65504.0
LARGEST_GAMMA = 3e38  # a larger one may be infinite in float32


class Arrays(Protocol):
    """What an adapter must offer: the names that ``formula`` uses, and these methods."""

    exp: Any
    log: Any
    log1p: Any
    where: Any
    isinf: Any
    zeros_like: Any

    def cast(self, array: Array, dtype: str) -> Array:
        """The array in the dtype of that name. As ``"bool"``, everything but 0 is true, NaN included."""

    def widen(self, array: Array, dtype: str) -> Array:
        """The array in the arithmetic's type of a result of that dtype."""

    def clip(self, array: Array, low: float, high: float) -> Array:
        """The array within these bounds; NaN stays."""

    def sum(self, array: Array) -> Array:
        """The sum over all elements."""

    def count(self, keep: Array, like: Array) -> Array:
        """The number of elements that are kept, in the shape of ``like``; exact for any number."""

    def size(self, array: Array) -> Any:
        """The number of elements, which may be a symbol."""

    def rows(self, array: Array) -> Any:
        """The size of the first axis, which may be a symbol."""

    def like(self, array: Array, operand: Array) -> Array:
        """The array summed over the axes along which the operand was broadcast, in the operand's shape."""

    def number(self, number: float, x: Array) -> Any:
        """The number to compute with x: itself, where the framework then keeps x's dtype."""

    def probability(self, call: Call, x: Array, y: Array) -> Array:
        """x, with NaN where it or the target is no probability, unless the framework reports that otherwise."""

    def checked(self, call: Call, x: Array, y: Array, operands: Operands, keep: Array | None) -> Array:
        """x; raises for what ``wrong_element`` finds, or returns what ``nan_where_wrong`` makes of it."""


class UntapedArrays(Arrays, Protocol):
    """What ``loss_and_gradient`` needs besides, which no tape records.

    An operation whose name ends in _ may use the memory of its first argument, as ``+=`` does where a library can.
    ``chooses`` says that a ``where`` costs no more than a product, as it does where a compiler fuses all operations.
    """

    chooses: bool
    sign: Any
    exp_: Any

    def clip_(self, array: Array, low: float, high: float) -> Array: ...

    def log1p_in_unit(self, array: Array) -> Array:
        """log1p of numbers from 0 to 1, to as many bits as the results can hold."""

    def add_product_(self, total: Array, one: Array, other: Array, sign: float = 1) -> Array:
        """total + sign · one · other."""


class Values(NamedTuple):
    """The operands as the arithmetic sees them."""

    x: Array
    y: Array
    weight: Array | None
    sample_weight: Array | None
    pos_weight: Any  # an array, or a number where alpha alone is given
    label_smoothing: Any  # a number, or an array where it is learnt
    gamma: Any
    normalizer: Array | None
    keep: Array | None  # which elements count; None: all
    neg_weight: Any


def _arguments(values: Values, weight: Array | None) -> tuple[Any, ...]:
    """The arguments of ``formula``'s functions."""
    return values.x, values.y, weight, values.pos_weight, values.label_smoothing, values.gamma, values.neg_weight


def functions(call: Call) -> Loss:
    """The functions of the call's loss: those of ``formula``, or of ``focal`` for what only that defines."""
    terms = call.terms
    if terms is None or not is_family(terms):
        return call.loss
    return focal.of(call.loss.probabilities, terms._replace(ignore_index=None, label_smoothing=0, gamma=0))


def with_own_loss(call: Call) -> Call:
    """The call with the functions of its focal family as its loss, in place of the options that ask for them."""
    terms = call.terms
    if terms is None or not terms.is_family:
        return call
    alpha = None if terms.focal == "p_t" else terms.alpha  # which the functions know of p_t
    rest = terms._replace(gamma_negative=None, margin=0, focal="branch", alpha=alpha)
    return call._replace(loss=functions(call), terms=rest)


def shares(call: Call) -> tuple[float, float]:
    """α and 1 − α, by which pos_weight and neg_weight are multiplied. That of p_t multiplies the whole instead."""
    terms = call.terms
    if terms is None or terms.alpha is None or terms.focal == "p_t":
        return 1, 1
    return terms.alpha, 1 - terms.alpha


def kept(xp: Arrays, target: Array, mask: Array | None, ignore_index: float | None) -> Array | None:
    """What ``formula.kept`` tells, for a mask of any dtype.

    The target is in the arithmetic's type; ``options.terms`` has checked that ``ignore_index`` is exact in it.
    """
    return formula.kept(target, None if mask is None else xp.cast(mask, "bool"), ignore_index)


def seen(xp: Arrays, call: Call, keep: Array | None, operand: Array | None) -> Array | None:
    """The operand in the arithmetic's type, and 0 where an element is ignored."""
    return None if operand is None else formula.only(xp, keep, xp.widen(operand, call.dtype))


def scaled(xp: Arrays, operand: Array | None, share: float, x: Array) -> Any:
    """The weight of one class times its share, which is alpha or 1 − alpha; a number where there is no weight."""
    if share == 1:
        return operand
    number = xp.number(share, x)
    return number if operand is None else operand * number


def prepare(xp: Arrays, call: Call, operands: Operands) -> Values:
    """The operands in the arithmetic's type, and 0 where an element is ignored."""
    terms = call.terms or Terms()
    y = xp.widen(operands.target, call.dtype)
    keep = kept(xp, y, operands.mask, terms.ignore_index)

    def wide(operand: Array | None) -> Array | None:
        return seen(xp, call, keep, operand)

    x, y = wide(operands.input), formula.only(xp, keep, y)

    def option(learnt: Array | None, given: float, most: float) -> Any:
        if learnt is None:
            return xp.number(given, x)
        value = xp.widen(learnt, call.dtype)
        # A graph cannot raise: an option out of its range becomes NaN, and with it the loss.
        return xp.where((value >= 0) & (value <= most), value, value + xp.number(math.nan, value))

    if call.loss.probabilities:
        x = xp.probability(call, x, y)
    if call.checks_targets:
        x = xp.checked(call, x, y, operands, keep)
    positive, negative = shares(call)
    return Values(
        x,
        y,
        wide(operands.weight),
        wide(operands.sample_weight),
        scaled(xp, wide(operands.pos_weight), positive, x),
        option(operands.label_smoothing, terms.label_smoothing, 1.0),
        option(operands.gamma, terms.gamma, LARGEST_GAMMA),
        None if operands.normalizer is None else xp.widen(operands.normalizer, call.dtype),
        keep,
        scaled(xp, wide(operands.neg_weight), negative, x),
    )


def nan_outside(xp: Arrays, call: Call, x: Array, y: Array) -> Array:
    """x, with NaN where it lies outside [0, 1], or where the target does and the call does not accept that."""
    valid = formula.in_unit(x)
    if not call.any_target:
        valid = valid & formula.in_unit(y)
    return xp.where(valid, x, xp.zeros_like(x) + xp.number(math.nan, x))


def product(one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other


def weight(values: Values) -> Array | None:
    return product(values.weight, values.sample_weight)


def elements(xp: Arrays, call: Call, values: Values) -> Array:
    """The loss of each element."""
    return formula.only(xp, values.keep, functions(call).loss(xp, *_arguments(values, weight(values))))


def loss_and_gradient(
    xp: UntapedArrays, call: Call, values: Values, *, loss: bool = True, gradient: bool = True, finite: bool = False
) -> tuple[Array | None, Array | None]:
    """The loss of each element and its derivative to the input, or None for one that is not wanted.

    Both at once take a third of the operations of ``elements`` and ``derivative``, which automatic differentiation
    needs. ``finite`` says that no operand is infinite: where one is nevertheless, a loss may be NaN.
    """
    arguments = _arguments(values, weight(values))
    found = functions(call).loss_and_gradient(xp, *arguments, loss=loss, gradient=gradient, finite=finite)
    if values.keep is None:
        return found
    keep = xp.widen(values.keep, call.dtype)  # what is ignored is finite, because its operands are 0
    each, slope = (None if one is None else one * keep for one in found)
    return each, slope


# ``measure``, ``divide`` and ``derivative`` take the values one by one: MindSpore compiles them into its graphs, where
# a named tuple cannot be made.


def measure(
    xp: Arrays, call: Call, x: Array, weight: Array | None, keep: Array | None, normalizer: Array | None = None
) -> Array:
    """The divisor that the operands give; ``weight`` is the product of the weights."""
    if call.divisor == KEPT:
        return xp.count(keep, x)
    if call.divisor == WEIGHTS:
        return xp.sum(formula.only(xp, keep, (xp.zeros_like(x) + 1) * weight))
    if call.divisor == GIVEN:
        return normalizer
    return xp.size(x) if call.divisor == SIZE else xp.rows(x)


def divide(
    xp: Arrays,
    call: Call,
    total: Array,
    x: Array,
    weight: Array | None,
    keep: Array | None,
    normalizer: Array | None = None,
) -> Array:
    """The total divided by the call's divisor; 0 if a divisor that is measured or given is 0."""
    if call.reduction in ("none", "sum"):
        return total
    if not isinstance(call.divisor, str):
        return total / call.divisor
    by = measure(xp, call, x, weight, keep, normalizer)
    if call.divisor in (SIZE, ROWS):
        return total / by
    return formula.divided(xp, total, xp.widen(by, call.dtype))


def derivative(
    xp: Arrays,
    call: Call,
    name: str,
    x: Array,
    y: Array,
    weight: Array | None,
    sample_weight: Array | None,
    pos_weight: Any,
    label_smoothing: Any,
    gamma: Any,
    normalizer: Array | None,
    keep: Array | None,
    neg_weight: Any,
) -> Array:
    """The derivative of each element's loss with respect to the operand of that name, before the division."""
    w, of = product(weight, sample_weight), functions(call)
    rest = pos_weight, label_smoothing, gamma, neg_weight
    if name in ("weight", "sample_weight"):
        bracket = formula.only(xp, keep, of.loss(xp, x, y, None, *rest))
        if call.divisor == WEIGHTS:  # a weight is part of the divisor too
            each = formula.only(xp, keep, of.loss(xp, x, y, w, *rest))
            bracket = bracket - divide(xp, call, xp.sum(each), x, w, keep, normalizer)
        return product(bracket, sample_weight if name == "weight" else weight)
    found = of.derivatives[name](xp, x, y, w, *rest)
    positive, negative = shares(call)
    share = {"pos_weight": positive, "neg_weight": negative}.get(name, 1)
    return found if share == 1 else found * share


def measured(xp: Arrays, call: Call, values: Values) -> Array:
    """The result of ``measure`` for these values. The results of shards are added."""
    return measure(xp, call, values.x, weight(values), values.keep, values.normalizer)


def divided(xp: Arrays, call: Call, values: Values, total: Array) -> Array:
    """The result of ``divide`` for these values."""
    return divide(xp, call, total, values.x, weight(values), values.keep, values.normalizer)


def mean(xp: Arrays, call: Call, values: Values, each: Array) -> Array:
    """The reduction of one value per element, in the arithmetic's type."""
    return divided(xp, call, values, xp.sum(each))


def loss(xp: Arrays, call: Call, operands: Operands) -> Array:
    """The loss, reduced, in the result's dtype."""
    values = prepare(xp, call, operands)
    each = elements(xp, call, values)
    return xp.cast(each if call.reduction == "none" else mean(xp, call, values, each), call.dtype)


def slope(xp: Arrays, call: Call, values: Values, name: str) -> Array:
    """The result of ``derivative`` for these values."""
    return derivative(xp, call, name, *values)


def curvature(xp: Arrays, call: Call, values: Values, *, expects: bool) -> Array:
    """The second derivative of each element's loss by its logit, before the division: the exact or the expected one."""
    terms = call.terms
    if terms is None or not is_family(terms):
        exact, expected = formula.logits_curvature, formula.logits_expected_curvature
    else:
        exact, expected = focal_curvature.of(terms._replace(ignore_index=None, label_smoothing=0, gamma=0))
    found = (expected if expects else exact)(xp, *_arguments(values, weight(values)))
    return formula.only(xp, values.keep, found)


def saturated(xp: Arrays, call: Call, gradient: Array, dtype: str) -> Array:
    """The gradient in its dtype. In float16 that of a probability is clipped: at q = 0 and 1 it is ±1e12."""
    if call.loss.probabilities and dtype == "float16":
        gradient = xp.clip(gradient, -LARGEST_FLOAT16, LARGEST_FLOAT16)
    return xp.cast(gradient, dtype)


def gradient_of_slope(
    xp: Arrays, call: Call, operand: Array, values: Values, slope: Array, dtype: str, incoming: Array
) -> Array:
    """The gradient to the operand along which the losses have this slope, in ``dtype``, for the incoming gradient."""
    factor = divided(xp, call, values, xp.widen(incoming, call.dtype))
    each = formula.only(xp, values.keep, factor * slope)
    return saturated(xp, call, xp.like(each, operand), dtype)


def gradient(
    xp: Arrays, call: Call, operands: Operands, values: Values, name: str, dtype: str, incoming: Array
) -> Array:
    """The gradient to the operand of that name, in ``dtype``, for the incoming gradient. It is differentiable."""
    found = slope(xp, call, values, name)
    return gradient_of_slope(xp, call, getattr(operands, name), values, found, dtype, incoming)


def refusal_of_probability(name: str, values: Any, keep: Any) -> str:
    """The message for the first element outside [0, 1]; ``values`` and ``keep`` (or None) are NumPy arrays."""
    wrong = ~formula.in_unit(values)
    first = tuple(int(i) for i in np.argwhere(wrong if keep is None else wrong & keep)[0])
    return no_probability(name, first, values[first])


# What ``check_targets`` asks of an operand: which elements of it are wrong.
WRONG: Mapping[str, Callable[[Array], Array]] = {
    "target": lambda values: ~formula.in_unit(values),
    "pos_weight": lambda values: values < 0,
    "neg_weight": lambda values: values < 0,
    "mask": lambda values: (values != 0) & (values != 1),
}


def wrong_element(operands: Operands, keep: Any) -> str | None:
    """The message for the first operand and element that ``check_targets`` refuses; None if all is well.

    The operands are NumPy arrays. What is ignored is exempt, but for the mask itself.
    """
    for name, is_wrong in WRONG.items():
        values = getattr(operands, name)
        if values is None:
            continue
        values = np.asarray(values)
        wrong = np.broadcast_to(is_wrong(values.astype(np.float64)), np.shape(operands.input))
        if keep is not None and name != "mask":
            wrong = wrong & keep
        if not wrong.any():
            continue
        first = np.unravel_index(np.argmax(wrong), wrong.shape)[wrong.ndim - values.ndim :]
        own = tuple(0 if size == 1 else int(i) for i, size in zip(first, values.shape, strict=True))
        return wrong_target(name, own, values[own])
    return None


def nan_where_wrong(xp: Arrays, call: Call, x: Array, y: Array, operands: Operands, keep: Array | None) -> Array:
    """x, with NaN where ``check_targets`` refuses an operand: for a compiler, under which nothing can be raised."""
    return nan_of_wrong(xp, call, x, y, operands.pos_weight, operands.mask, operands.neg_weight, keep)


def nan_of_wrong(
    xp: Arrays,
    call: Call,
    x: Array,
    y: Array,
    pos_weight: Array | None,
    mask: Array | None,
    neg_weight: Array | None,
    keep: Array | None,
) -> Array:
    """The result of ``nan_where_wrong`` for these operands."""
    wrong = ~formula.in_unit(y)
    if pos_weight is not None:
        wrong = wrong | (xp.widen(pos_weight, call.dtype) < 0)
    if neg_weight is not None:
        wrong = wrong | (xp.widen(neg_weight, call.dtype) < 0)
    if keep is not None:
        wrong = wrong & keep
    if mask is not None:
        number = xp.widen(mask, call.dtype)
        wrong = wrong | ((number != 0) & (number != 1))
    return xp.where(wrong, xp.zeros_like(x) + xp.number(math.nan, x), x)
