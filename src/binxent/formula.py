"""The definition: both losses and their derivatives, on any array library.

``xp`` is any namespace with ``exp``, ``log``, ``log1p``, ``where``, ``isinf`` and ``zeros_like``: NumPy, torch,
jax.numpy. This is what every test compares with (in float64), and what runs where the kernel does not.

For a logit x, target y, weight w and positive weight p (a negative weight n multiplies each (1−y) likewise)::

    loss   = w · [ p·y·softplus(−x) + (1−y)·softplus(x) ]
    d/dx   = w · [ (1−y)·σ(x) − p·y·σ(−x) ]
    d/dy   = w · [ p·softplus(−x) − softplus(x) ]
    d/dp   = w · y·softplus(−x)
    d/dw   = loss / w
    d²/dx² = w · [ (1−y) + p·y ] · σ(x)·σ(−x)

For a probability q, both logarithms clamped at −100 as the frameworks document::

    loss   = w · [ p·y·(−log q) + (1−y)·(−log(1−q)) ]
    d/dq   = w · [ (1−y)·q − p·y·(1−q) ] / max(q·(1−q), 1e-12)
    d/dy   = w · [ p·(−log q) − (−log(1−q)) ]
    d/dp   = w · y·(−log q)
    d/dw   = loss / w

Neither branch of a gradient is computed from the other: σ(x) − 1, x − x·y and log σ(x) lose every digit in the tails.

The options change y, 1 − y and the two branches, and nothing else:

- ``label_smoothing`` ε (Szegedy et al., 2016): y·(1−ε) + ε/2 stands for y, and (1−y)·(1−ε) + ε/2 for 1 − y;
- ``gamma`` γ (the focal loss of Lin et al., 2017): softplus(−x) is multiplied by σ(−x)^γ = exp(−γ·softplus(x)), and
  softplus(x) by σ(x)^γ; likewise −log q by (1−q)^γ, and −log(1−q) by q^γ. The derivatives become::

      d/dx   = w · [ (1−y)·σ(x)^γ·(σ(x) + γ·σ(−x)·softplus(x)) − p·y·σ(−x)^γ·(σ(−x) + γ·σ(x)·softplus(−x)) ]
      d/dq   = w · [ (1−y)·q^γ·(q − γ·(1−q)·log(1−q)) − p·y·(1−q)^γ·(1−q − γ·q·log q) ] / max(q·(1−q), 1e-12)
      d²/dx² = w · [ p·y·c(x) + (1−y)·c(−x) ],
               c(x) = σ(x)·σ(−x)^γ · [ (2γ+1)·σ(−x) + γ·softplus(−x)·(γ·σ(x) − σ(−x)) ]

Each of the two may be a number or an array. An array has a derivative of its own, where b(x) is the loss of a positive,
and b(−x), or b(1−q), that of a negative::

    d/dε   = w · (½−y) · [ p·b(x) − b(−x) ]
    d/dγ   = −w · [ p·y·σ(−x)^γ + (1−y)·σ(x)^γ ] · softplus(x)·softplus(−x)
    d/dγ   = −w · [ p·y·(1−q)^γ + (1−y)·q^γ ] · log(q)·log(1−q)

A coefficient of exactly 0 times ±inf is 0; 0 times NaN stays NaN.

Every choice between the two sides of 0 is a ``where`` on x < 0. At 0 the function is then one analytic expression, and
automatic differentiation of this file is right there, to any order. With ``abs`` it would not be.

The functions ``…_loss_and_gradient`` alone are not for differentiation. They compute both at once, in few operations,
and need the names of ``definition.UntapedArrays``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = Any
Namespace = Any
Option = Any  # a number, or an array of one element, which may be learnt

LOG_CLAMP = 100.0
LARGE = 3e38  # less than float32's largest number
TINY_PRODUCT = 1e-12  # the least denominator of d/dq: it bounds the gradient by 1e12

# log1p(e) = e · P(e), 0 ≤ e ≤ 1; relative error at most 2^−16.6. It is fitted as native/lanes/coefficients.py fits
# the polynomials of the kernels.
LOG1P_SHORT = (
    0.9999903440475464,
    -0.49930283427238464,
    0.3247593343257904,
    -0.20883530378341675,
    0.09986765682697296,
    -0.02333696372807026,
)


def _e(xp: Namespace, x: Array) -> Array:
    """exp(−|x|), which is at most 1 and never overflows."""
    return xp.exp(xp.where(x < 0, x, -x))


def softplus(xp: Namespace, x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|))."""
    return xp.where(x < 0, xp.zeros_like(x), x) + xp.log1p(_e(xp, x))


def sigmoid(xp: Namespace, x: Array) -> Array:
    """1/(1 + exp(−x)) = 1/(1+e) or e/(1+e), e = exp(−|x|)."""
    e = _e(xp, x)
    return xp.where(x < 0, e, xp.zeros_like(x) + 1) / (1 + e)


def sigmoids(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """σ(x) and σ(−x), which share their exponential."""
    e = _e(xp, x)
    larger, smaller, negative = 1 / (1 + e), e / (1 + e), x < 0
    return xp.where(negative, smaller, larger), xp.where(negative, larger, smaller)


def short_log1p(e: Array) -> Array:
    """log1p(e), 0 ≤ e ≤ 1, to 16 bits, in the tail too: for results of half types, which have 8 or 11."""
    *lower, rest = LOG1P_SHORT
    for coefficient in reversed(lower):
        rest = rest * e + coefficient
    return rest * e


def minus_log(xp: Namespace, q: Array) -> Array:
    """−log q, at most 100."""
    value = -xp.log(q)
    return xp.where(value > LOG_CLAMP, xp.zeros_like(value) + LOG_CLAMP, value)


def minus_log1m(xp: Namespace, q: Array) -> Array:
    """−log(1 − q), at most 100; exact for small q, where 1 − q is not."""
    value = -xp.log1p(-q)
    return xp.where(value > LOG_CLAMP, xp.zeros_like(value) + LOG_CLAMP, value)


def _unless_nothing(xp: Namespace, coefficient: Array, value: Array) -> Array:
    """The value, and 0 in place of ±inf where the coefficient is 0."""
    if isinstance(coefficient, (int, float)):
        return value if coefficient else xp.where(xp.isinf(value), xp.zeros_like(value), value)
    return xp.where((coefficient == 0) & xp.isinf(value), xp.zeros_like(value), value)


def _times(xp: Namespace, coefficient: Array, value: Array) -> Array:
    """coefficient · value, where 0 · ±inf is 0."""
    return coefficient * _unless_nothing(xp, coefficient, value)


def _weighted(xp: Namespace, weight: Array | None, bracket: Array) -> Array:
    return bracket if weight is None else _times(xp, weight, bracket)


def is_off(option: Option) -> bool:
    """Whether an option is the number 0. An array may hold any value, and is never off."""
    return isinstance(option, (int, float)) and option == 0


def smoothed(target: Array, label_smoothing: Option) -> Array:
    """y·(1−ε) + ε/2: label smoothing (Szegedy et al., 2016) of two classes."""
    return target if is_off(label_smoothing) else target * (1 - label_smoothing) + label_smoothing / 2


def coefficients(
    target: Array, pos_weight: Array | None, label_smoothing: Option = 0.0, neg_weight: Array | None = None
) -> tuple[Array, Array]:
    """p·y and n·(1 − y), smoothed: the coefficients of the positive and of the negative branch."""
    positive, negative = smoothed(target, label_smoothing), smoothed(1 - target, label_smoothing)
    return (
        positive if pos_weight is None else pos_weight * positive,
        negative if neg_weight is None else neg_weight * negative,
    )


def _finite(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """Whether x is infinite, and x with 0 there: a power or product of two softplus would be 0 · inf = NaN."""
    infinite = xp.isinf(x)
    return infinite, xp.where(infinite, xp.zeros_like(x), x)


def _branch(xp: Namespace, x: Array, gamma: Option) -> Array:
    """softplus(−x)·σ(−x)^γ, the loss of a positive; that of a negative is the branch of −x."""
    if is_off(gamma):
        return softplus(xp, -x)
    infinite, finite = _finite(xp, x)
    return xp.where(infinite, softplus(xp, -x), softplus(xp, -finite) * xp.exp(-gamma * softplus(xp, finite)))


def _slope(xp: Namespace, x: Array, gamma: Option) -> Array:
    """The derivative of ``_branch`` with respect to x."""
    if is_off(gamma):
        return -sigmoid(xp, -x)
    infinite, finite = _finite(xp, x)
    slope = sigmoid(xp, -finite) + gamma * sigmoid(xp, finite) * softplus(xp, -finite)
    return -xp.where(infinite, sigmoid(xp, -x), slope * xp.exp(-gamma * softplus(xp, finite)))


def _slope_to_gamma(xp: Namespace, x: Array, gamma: Option) -> Array:
    """The derivative of ``_branch`` with respect to gamma."""
    infinite, finite = _finite(xp, x)
    slope = softplus(xp, finite) * softplus(xp, -finite)
    if not is_off(gamma):
        slope = slope * xp.exp(-gamma * softplus(xp, finite))
    return -xp.where(infinite, xp.zeros_like(x), slope)


def logits_loss(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    if not is_off(gamma):
        bracket = _times(xp, positive, _branch(xp, x, gamma)) + _times(xp, negative, _branch(xp, -x, gamma))
    else:
        # Both softplus contain log1p(e), which is computed once. Without a weight of one class its coefficient is 1,
        # whatever the target: the automatic derivative to the target is then −x itself, and not a difference of two
        # softplus.
        none, both = xp.zeros_like(x), 1 if pos_weight is None and neg_weight is None else positive + negative
        bracket = _times(xp, positive, xp.where(x < 0, -x, none)) + _times(xp, negative, xp.where(x < 0, none, x))
        bracket = bracket + both * xp.log1p(_e(xp, x))
    return _weighted(xp, weight, bracket)


def logits_gradient(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    if is_off(gamma):
        up, down = sigmoids(xp, x)
        return _weighted(xp, weight, negative * up - positive * down)
    return _weighted(xp, weight, positive * _slope(xp, x, gamma) - negative * _slope(xp, -x, gamma))


def _above(xp: Namespace, x: Array) -> Array:
    """1 where x > 0 and 0 where x < 0; at 0 either is right."""
    if xp.chooses:
        return xp.where(x < 0, xp.zeros_like(x), xp.zeros_like(x) + 1)
    return xp.clip_(xp.sign(x), 0, 1)


def _sides(
    xp: Namespace,
    x: Array,
    target: Array,
    pos_weight: Array | None,
    label_smoothing: Option,
    neg_weight: Array | None,
) -> tuple[Array, Array, Array | None]:
    """The signed coefficients of σ(|x|) and of σ(−|x|) in d/dx, and the sum of both branches' (None: it is 1).

    They are 1 − y and p·y where x > 0, and −p·y and −(1 − y) where x < 0. At 0 either is right. They are chosen, or
    summed: in each sum of two products one is 0, so that nothing is rounded.
    """
    above = _above(xp, x)
    if pos_weight is neg_weight is None and is_off(label_smoothing):
        larger, smaller = above - target, above
        smaller -= 1
        smaller += target
        return larger, smaller, None
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    both = None if pos_weight is neg_weight is None else positive + negative
    if xp.chooses:
        return xp.where(x < 0, -positive, negative), xp.where(x < 0, -negative, positive), both
    below = above - 1  # −1 where x < 0
    larger = xp.add_product_(above * negative, below, positive)
    below *= negative
    smaller = xp.add_product_(below, above, positive)
    return larger, smaller, both


def _focal_loss_and_gradient(
    xp: Namespace,
    x: Array,
    positive: Array,
    negative: Array,
    gamma: Option,
    loss: bool,
    gradient: bool,
    finite: bool,
) -> tuple[Array | None, Array | None]:
    """The bracket of the focal loss and its derivative to x. A softplus that is multiplied by what is 0 at infinity is
    bounded, because 0 · inf is NaN."""
    e = xp.exp(-abs(x))
    log = xp.log1p(e)
    rising, falling = xp.clip(x, 0, math.inf) + log, log - xp.clip(x, -math.inf, 0)  # softplus(x), softplus(−x)
    rises, falls = xp.clip(rising, 0, LARGE), xp.clip(falling, 0, LARGE)
    of_positive, of_negative = xp.exp_(rises * -gamma), xp.exp_(falls * -gamma)  # σ(−x)^γ, σ(x)^γ
    bracket = slope = None
    if loss:
        for coefficient, branch in ((positive, of_positive * falling), (negative, of_negative * rising)):
            each = coefficient * branch if finite else _times(xp, coefficient, branch)
            bracket = each if bracket is None else bracket + each
    if gradient:
        above = _above(xp, x)
        below = above - 1
        both = e + 1
        up, down = (above - below * e) / both, (above * e - below) / both
        more, less = down * gamma, up * gamma
        slope = negative * of_negative * xp.add_product_(up, more, rises)
        slope -= positive * of_positive * xp.add_product_(down, less, falls)
    return bracket, slope


def logits_loss_and_gradient(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
    *,
    loss: bool = True,
    gradient: bool = True,
    finite: bool = False,
) -> tuple[Array | None, Array | None]:
    """The loss and d/dx, or None for one that is not wanted. They share e = exp(−|x|) and the coefficients::

        loss = w · [ c·x + (1−y + p·y)·log1p(e) ],  d/dx = w · (c − d·e)/(1+e),  c and d from ``_sides``

    ``finite`` says that no operand is infinite, so that products need no look at it. Where one is, a loss may be NaN.
    """
    if not is_off(gamma):
        coefficient = coefficients(target, pos_weight, label_smoothing, neg_weight)
        focal = _focal_loss_and_gradient(xp, x, *coefficient, gamma, loss, gradient, finite)
        return _both_weighted(xp, weight, *focal, finite)
    # On a processor torch's ``where`` takes three times as long as its ``exp``: here is none, unless the library
    # ``chooses``. What is changed in place belongs to this function; a new array for each result would leave the
    # processor's cache earlier.
    e = abs(x)
    e *= -1
    e = xp.exp_(e)
    larger, smaller, both = _sides(xp, x, target, pos_weight, label_smoothing, neg_weight)
    bracket = slope = None
    if loss:
        bracket = xp.log1p_in_unit(e)
        if both is not None:
            bracket *= both
        bracket = xp.add_product_(bracket, larger, x if finite else _unless_nothing(xp, larger, x))
    if gradient:
        slope = xp.add_product_(larger, smaller, e, -1)
        e += 1
        slope /= e
    return _both_weighted(xp, weight, bracket, slope, finite)


def _both_weighted(
    xp: Namespace, weight: Array | None, bracket: Array | None, slope: Array | None, finite: bool
) -> tuple[Array | None, Array | None]:
    def weighted(each: Array | None) -> Array | None:
        if each is None or weight is None:
            return each
        return weight * each if finite else _times(xp, weight, each)

    return weighted(bracket), weighted(slope)


def logits_gradient_to_target(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    if not is_off(gamma):
        positive, negative = _branch(xp, x, gamma), _branch(xp, -x, gamma)
        bracket = positive if pos_weight is None else pos_weight * positive
        bracket = bracket - (negative if neg_weight is None else neg_weight * negative)
    else:
        bracket = -x
        if pos_weight is not None or neg_weight is not None:
            # Both softplus contain log1p(e), which is added once, times p − n: for p = n = 1 the bracket is exactly −x.
            p, n = 1 if pos_weight is None else pos_weight, 1 if neg_weight is None else neg_weight
            positive = bracket if pos_weight is None else _times(xp, p, bracket)
            negative = bracket if neg_weight is None else _times(xp, n, bracket)
            bracket = xp.where(x < 0, positive, negative) + (p - n) * xp.log1p(_e(xp, x))
    return _weighted(xp, weight, bracket if is_off(label_smoothing) else bracket * (1 - label_smoothing))


def logits_gradient_to_pos_weight(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    return _weighted(xp, weight, _times(xp, smoothed(target, label_smoothing), _branch(xp, x, gamma)))


def logits_gradient_to_neg_weight(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    return _weighted(xp, weight, _times(xp, smoothed(1 - target, label_smoothing), _branch(xp, -x, gamma)))


def logits_gradient_to_label_smoothing(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    difference = logits_gradient_to_target(xp, x, target, None, pos_weight, 0.0, gamma, neg_weight)
    return _weighted(xp, weight, _times(xp, 0.5 - target, difference))


def logits_gradient_to_gamma(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    bracket = positive * _slope_to_gamma(xp, x, gamma) + negative * _slope_to_gamma(xp, -x, gamma)
    return _weighted(xp, weight, bracket)


def _bend(xp: Namespace, x: Array, gamma: Option) -> Array:
    """The derivative of ``_slope`` with respect to x, divided by σ(−x)^γ; x is finite."""
    up, down = sigmoids(xp, x)
    return up * ((2 * gamma + 1) * down + gamma * softplus(xp, -x) * (gamma * up - down))


def _curve(xp: Namespace, x: Array, gamma: Option) -> Array:
    """The derivative of ``_slope`` with respect to x."""
    infinite, finite = _finite(xp, x)
    curve = _bend(xp, finite, gamma) * xp.exp(-gamma * softplus(xp, finite))
    return xp.where(infinite, xp.zeros_like(x), curve)


def _expected_curve(xp: Namespace, x: Array, gamma: Option, of_negatives: Option) -> Array:
    """(B·c(x) + A·c(−x)) / (A + B), with c = ``_curve``; A and −B are the branches' slopes, with their signs changed.

    c(−x) and B have the gamma of negatives. All of it is divided by the larger of σ(−x)^γ and σ(x)^γ₋, so that no power
    in the denominator is 0.
    """
    infinite, finite = _finite(xp, x)
    up, down = sigmoids(xp, finite)
    above, below = softplus(xp, finite), softplus(xp, -finite)
    rising = up + of_negatives * down * above
    falling = down + gamma * up * below
    of_positive, of_negative = gamma * above, of_negatives * below  # −log of the two powers
    ahead = of_positive < of_negative
    ratio = xp.exp(xp.where(ahead, of_positive - of_negative, of_negative - of_positive))
    slopes = xp.where(ahead, rising * ratio + falling, falling * ratio + rising)
    bends = rising * _bend(xp, finite, gamma) + falling * _bend(xp, -finite, of_negatives)
    power = xp.exp(-xp.where(ahead, of_negative, of_positive))
    return xp.where(infinite, xp.zeros_like(x), power * bends / slopes)


def logits_curvature(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    """d²/dx², which the focal power makes negative for what is classified wrongly."""
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    if is_off(gamma):
        up, down = sigmoids(xp, x)
        return _weighted(xp, weight, (negative + positive) * up * down)
    return _weighted(xp, weight, positive * _curve(xp, x, gamma) + negative * _curve(xp, -x, gamma))


def logits_expected_curvature(
    xp: Namespace,
    x: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    """d²/dx² with its mean over labels in the place of each branch's: over those for which the logit x is the best.

    It is positive, and d²/dx² itself where γ = 0. Where x is the best, a label is positive with the probability
    B/(A + B), where −A and B are the slopes of the two branches (Charoenphakdee et al., 2021).
    """
    if is_off(gamma):
        return logits_curvature(xp, x, target, weight, pos_weight, label_smoothing, gamma, neg_weight)
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    return _weighted(xp, weight, (negative + positive) * _expected_curve(xp, x, gamma, gamma))


def focal_power(xp: Namespace, minus_log: Array, gamma: Option) -> Array:
    """t^γ (Lin et al., 2017), t the probability of the wrong class, from −log t; 0 where that is clamped."""
    power = xp.exp(-gamma * minus_log)
    return xp.where(minus_log < LOG_CLAMP, power, xp.zeros_like(power))


def _branches(xp: Namespace, q: Array, gamma: Option) -> tuple[Array, Array]:
    """The loss of a positive and that of a negative."""
    positive, negative = minus_log(xp, q), minus_log1m(xp, q)
    if is_off(gamma):
        return positive, negative
    return positive * focal_power(xp, negative, gamma), negative * focal_power(xp, positive, gamma)


def probabilities_loss(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    of_positive, of_negative = _branches(xp, q, gamma)
    return _weighted(xp, weight, positive * of_positive + negative * of_negative)


def bounded(xp: Namespace, q: Array) -> Array:
    """max(q·(1−q), 1e-12), the denominator of d/dq."""
    product = q * (1 - q)
    return xp.where(product < TINY_PRODUCT, xp.zeros_like(product) + TINY_PRODUCT, product)


def probabilities_gradient(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    rising, falling = q, 1 - q
    if not is_off(gamma):
        of_positive, of_negative = minus_log(xp, q), minus_log1m(xp, q)
        rising = focal_power(xp, of_positive, gamma) * (q + gamma * (1 - q) * of_negative)
        falling = focal_power(xp, of_negative, gamma) * (1 - q + gamma * q * of_positive)
    return _weighted(xp, weight, (negative * rising - positive * falling) / bounded(xp, q))


def probabilities_loss_and_gradient(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
    *,
    loss: bool = True,
    gradient: bool = True,
    finite: bool = False,
) -> tuple[Array | None, Array | None]:
    """The loss and d/dq of probabilities in [0, 1], or None for one that is not wanted; ``finite`` as for logits."""
    if not is_off(gamma):
        arguments = xp, q, target, weight, pos_weight, label_smoothing, gamma, neg_weight
        return (
            probabilities_loss(*arguments) if loss else None,
            probabilities_gradient(*arguments) if gradient else None,
        )
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    bracket = slope = None
    if loss:  # −log q is not negative, and ``clip_`` takes a tenth of the time of ``where``
        bracket = positive * xp.clip_(-xp.log(q), 0, LOG_CLAMP)
        bracket = xp.add_product_(bracket, negative, xp.clip_(-xp.log1p(-q), 0, LOG_CLAMP))
    if gradient:
        falling = 1 - q
        slope = xp.add_product_(negative * q, positive, falling, -1)
        falling *= q
        slope /= xp.clip_(falling, TINY_PRODUCT, 1)
    return _both_weighted(xp, weight, bracket, slope, finite)


def probabilities_gradient_to_target(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = _branches(xp, q, gamma)
    bracket = positive if pos_weight is None else pos_weight * positive
    bracket = bracket - (negative if neg_weight is None else neg_weight * negative)
    return _weighted(xp, weight, bracket if is_off(label_smoothing) else bracket * (1 - label_smoothing))


def probabilities_gradient_to_pos_weight(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    return _weighted(xp, weight, smoothed(target, label_smoothing) * _branches(xp, q, gamma)[0])


def probabilities_gradient_to_neg_weight(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    return _weighted(xp, weight, smoothed(1 - target, label_smoothing) * _branches(xp, q, gamma)[1])


def probabilities_gradient_to_label_smoothing(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    difference = probabilities_gradient_to_target(xp, q, target, None, pos_weight, 0.0, gamma, neg_weight)
    return _weighted(xp, weight, (0.5 - target) * difference)


def probabilities_gradient_to_gamma(
    xp: Namespace,
    q: Array,
    target: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    label_smoothing: Option = 0.0,
    gamma: Option = 0.0,
    neg_weight: Array | None = None,
) -> Array:
    positive, negative = coefficients(target, pos_weight, label_smoothing, neg_weight)
    of_positive, of_negative = minus_log(xp, q), minus_log1m(xp, q)
    if not is_off(gamma):
        positive = positive * focal_power(xp, of_negative, gamma)
        negative = negative * focal_power(xp, of_positive, gamma)
    return _weighted(xp, weight, -(positive + negative) * of_positive * of_negative)


@dataclass(frozen=True, eq=False)
class Loss:
    """One of the two losses. Its functions all take xp, x, target, weight, pos_weight, label_smoothing, gamma and
    neg_weight.

    ``loss`` and ``derivatives`` may be differentiated; ``loss_and_gradient`` may not, and takes a third of their time.
    ``eq=False``: each is one object, which a cache finds by its identity.
    """

    name: str
    probabilities: bool
    loss: Callable[..., Array]
    derivatives: Mapping[str, Callable[..., Array]] = field(repr=False)  # by the operand's name
    loss_and_gradient: Callable[..., tuple[Array | None, Array | None]]

    def __reduce__(self) -> str:
        """Copied and pickled as the name of the one object."""
        return self.name.upper()


LOGITS = Loss(
    "logits",
    False,
    logits_loss,
    {
        "input": logits_gradient,
        "target": logits_gradient_to_target,
        "pos_weight": logits_gradient_to_pos_weight,
        "neg_weight": logits_gradient_to_neg_weight,
        "label_smoothing": logits_gradient_to_label_smoothing,
        "gamma": logits_gradient_to_gamma,
    },
    logits_loss_and_gradient,
)
PROBABILITIES = Loss(
    "probabilities",
    True,
    probabilities_loss,
    {
        "input": probabilities_gradient,
        "target": probabilities_gradient_to_target,
        "pos_weight": probabilities_gradient_to_pos_weight,
        "neg_weight": probabilities_gradient_to_neg_weight,
        "label_smoothing": probabilities_gradient_to_label_smoothing,
        "gamma": probabilities_gradient_to_gamma,
    },
    probabilities_loss_and_gradient,
)


def kept(target: Array, mask: Array | None, ignore_index: float | None) -> Array | None:
    """Which elements count: those in the boolean mask whose target is not ``ignore_index``. None: all of them."""
    if ignore_index is None:
        return mask
    known = target == target if ignore_index != ignore_index else target != ignore_index
    return known if mask is None else mask & known


def in_unit(values: Array) -> Array:
    """Which values are probabilities: NaN is none."""
    return (values >= 0) & (values <= 1)


def only(xp: Namespace, keep: Array | None, operand: Array) -> Array:
    """The operand, and 0 where an element is ignored: done before the loss, it keeps NaN out of derivatives too."""
    return operand if keep is None else xp.where(keep, operand, xp.zeros_like(operand))


def divided(xp: Namespace, total: Array, divisor: Array) -> Array:
    """total / divisor; 0 where the divisor is 0, as the mean of nothing is."""
    nothing = divisor == 0
    quotient = total / xp.where(nothing, xp.zeros_like(divisor) + 1, divisor)
    return xp.where(nothing, xp.zeros_like(quotient), quotient)


def log_odds(xp: Namespace, positive: Array, negative: Array) -> Array:
    """log(positive / negative): the logit of the probability positive / (positive + negative)."""
    return xp.log(positive) - xp.log(negative)


def unweighted_logits(xp: Namespace, x: Array, pos_weight: Array) -> Array:
    """x − log p. Where a share r of the labels is positive, the loss with pos_weight p is least at the odds p·r/(1−r),
    that is, at p times the odds of the data."""
    return x - xp.log(pos_weight)


def unweighted_probabilities(q: Array, pos_weight: Array) -> Array:
    """q / (q + p·(1−q)), the sigmoid of log(q/(1−q)) − log p; no difference of logarithms is taken, so both tails keep
    their digits."""
    return q / (q + pos_weight * (1 - q))


def effective_number(xp: Namespace, n: Array, beta: float) -> Array:
    """(1 − βⁿ)/(1 − β), 0 < β < 1: the effective number of n examples (Cui et al., 2019), the k-th worth βᵏ⁻¹."""
    return xp.expm1(n * xp.log(beta)) / (beta - 1)


def harmonic_bound(xp: Namespace, start: Array, count: Array) -> Array:
    """log((start + count + ½) / (start + ½)), which is at least Σ 1/(start + i) over i = 1 … count: the integral
    of 1/x from ½ before each term to ½ behind it is greater than the term, since 1/x is convex."""
    return xp.log1p(count / (start + 0.5))
