"""Computes one element on a GPU with the focal power, and with the options of ``binxent.focal``.

It is made of what ``lanes`` has, as ``native/lanes/focal.h`` and ``family.h`` are of ``math.h``. A power t^γ =
exp(−γ·(−log t)) keeps its exponent in two parts, since its error is that of the exponent, and comes last in a product.
Of a logit in the tail e is lifted, so that neither the loss nor the gradient loses digits on the way.

A ``gamma`` is None where there is no power, and ``low`` is what γ lost when it was rounded. Each function returns the
loss, and the gradient times factor. ``ANY_SIZE``: there are weights, which may be tiny or large.
"""

from __future__ import annotations

import triton.language as tl

from binxent.kernels.triton import lanes
from binxent.kernels.triton.lanes import device_function, divided, is_negative, like

LIFT, RAISE, EXP_LIMIT = lanes.LIFT, lanes.RAISE, lanes.EXP_LIMIT


@device_function
def power_of_sum(gamma, low, one, other, lost):
    """exp(−γ·(one + other + lost)) as 2ⁿ, lifted, and q: it is 2ⁿ·(1 + q)."""
    size, more = gamma * one, gamma * other
    total = size + more
    part = total - size
    rest = tl.fma(low, one, tl.fma(gamma, one, -size))
    rest = rest + tl.fma(gamma, lost, tl.fma(low, other, tl.fma(gamma, other, -more)))
    return lanes.exp_of_minus(total, rest + ((size - (total - part)) + (more - part)))


@device_function
def power_of(gamma, low, value, lost):
    """exp(−γ·(value + lost)), likewise."""
    size = gamma * value
    return lanes.exp_of_minus(size, tl.fma(gamma, lost, tl.fma(low, value, tl.fma(gamma, value, -size))))


@device_function
def dropped(one, other, drop, ANY_SIZE: tl.constexpr):
    """one·other·drop, where ``drop`` takes the lift off ``other``. It is taken off ``one``, unless that may be so small
    that it would lose digits: if it is below 1, the other stands it."""
    if ANY_SIZE:
        large = tl.abs(one) > 1
        return tl.where(large, one * drop, one) * tl.where(large, other, other * drop)
    else:
        return one * drop * other


@device_function
def powered(value, power, q):
    """value·2ⁿ·(1 + q). The lift is taken off the value or off 2ⁿ, whichever is exact then."""
    t: tl.constexpr = 1 if value.dtype == tl.float64 else 0
    return _powered(dropped(value, power, 2.0 ** -LIFT[t], True), q)


@device_function
def powered_below_1(value, power, q):
    """The same where the value is at most 1, or 2ⁿ is near 1."""
    t: tl.constexpr = 1 if value.dtype == tl.float64 else 0
    return _powered(value * (power * (2.0 ** -LIFT[t])), q)


@device_function
def _powered(scaled, q):
    return tl.fma(scaled, q, scaled)


@device_function
def within(value, most):
    """At most that; NaN stays."""
    return tl.where(value > most, most, value)


@device_function
def seen(coefficient, size):
    """The size, which may be infinite; a coefficient of 0 hides it."""
    return tl.where(coefficient != 0, size, like(0.0, size))


@device_function
def log1p_of(lifted):
    """log1p(e), lifted like the given e, and what rounding it lost."""
    t: tl.constexpr = 1 if lifted.dtype == tl.float64 else 0
    rest = lanes.log1p_rest(lifted * (2.0 ** -LIFT[t]), False) * lifted
    value = tl.fma(lifted, like(0.75, lifted), rest)
    return value, tl.fma(lifted, like(0.75, lifted), -value) + rest


@device_function
def inverse_of_sum(e):
    """1/(1 + e), with one step of long division: it takes back what rounding 1 + e lost, and a card's division."""
    inverse = like(1.0, e) / (1.0 + e)
    return tl.fma(tl.fma(-inverse, e, 1.0 - inverse), inverse, inverse)


@device_function
def one_power_logits(x, positive, negative, factor, gamma, low, ANY_SIZE: tl.constexpr):
    """Both branches have the factor exp(−γ·l), l = log1p(e), which is 1 + e times s = exp(−(γ + 1)·l)::

    loss = s·(1 + e)·[ leading·(|x| + l) + trailing·exp(−γ·|x|)·l ]
    d/dx = ±s·[ leading·(1 + γ·e·(|x| + l)) − trailing·exp(−γ·|x|)·(e + γ·l) ]
    """
    t: tl.constexpr = 1 if x.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    below, size = is_negative(x), tl.abs(x)
    leading, trailing = tl.where(below, positive, negative), tl.where(below, negative, positive)
    _, _, lifted, e = lanes.logit_parts(size, False)
    log1p, lost = log1p_of(lifted)
    finite = within(size, like(EXP_LIMIT[t], x))
    above = gamma + 1.0
    s, part = power_of(above, ((gamma - above) + 1.0) + low, log1p * drop, lost * drop)
    power, q = power_of(gamma, low, finite, like(0.0, x))
    small = dropped(trailing, log1p, drop, ANY_SIZE)
    small = powered(small, power, q) if ANY_SIZE else powered_below_1(small, power, q)
    both = tl.fma(leading, seen(leading, size) + log1p * drop, small)
    loss = powered_below_1(tl.fma(both, e, both), s, part)
    rising = tl.fma(gamma * e, finite + log1p * drop, like(1.0, x))
    falling = tl.fma(gamma, log1p, tl.fma(gamma, lost, lifted))
    falling = powered(dropped(trailing * factor, falling, drop, ANY_SIZE), power, q)
    slope = powered_below_1(tl.fma(leading * factor, rising, -falling), s, part)
    return tl.where(loss == loss, loss, both), lanes.with_sign_of(x, slope)  # an infinite sum times a q of 0


@device_function
def logit_branch(
    coefficient, factor, size, e, lifted, log1p, lost, inverse, rises, gamma, low, ANY_SIZE: tl.constexpr
):  # fmt: skip
    """The branch of a negative at the logit z, |z| = size, which is above 0 where it ``rises``::

        loss = σ(z)^γ·softplus(z),   d/dz = σ(z)^γ·(σ(z) + γ·σ(−z)·softplus(z))

    The branch of a positive is that of −z. ``log1p`` and what it lost are lifted.
    """
    t: tl.constexpr = 1 if e.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    one, nothing = like(1.0, e), like(0.0, e)
    value = tl.where(rises, seen(coefficient, size) + log1p * drop, log1p)
    slope = tl.where(rises, one, lifted)
    if gamma is not None:
        finite = within(size, like(EXP_LIMIT[t], e))
        more = tl.where(rises, tl.fma(log1p, drop, finite) * e, log1p)
        slope = tl.fma(gamma, more, tl.fma(gamma, tl.where(rises, nothing, lost), slope))
        power, q = power_of_sum(gamma, low, tl.where(rises, nothing, finite), log1p * drop, lost * drop)
    own = tl.where(rises, one, like(drop, e))
    loss = dropped(coefficient, value, own, ANY_SIZE)
    slope = dropped(coefficient * factor, slope * inverse, own, ANY_SIZE)
    if gamma is not None:
        small = powered(loss, power, q) if ANY_SIZE else powered_below_1(loss, power, q)
        loss, slope = tl.where(small == small, small, loss), powered(slope, power, q)  # an infinite loss times a q of 0
    return loss, slope


@device_function
def minus_log_near(u, less):
    """−log u of a u in (0, 1]; ``less`` is 1 − u, of which u has lost digits where it is above ½."""
    m, exponent = lanes.mantissa_and_exponent(u)
    f = tl.where(exponent == 0, -less, tl.where(u >= 0.5, tl.fma(less, like(-2.0, u), like(1.0, u)), m - 1.0))
    value, _ = lanes.minus_log(f, exponent.to(u.dtype))
    return value


@device_function
def margin_branch(
    coefficient, factor, power_of_e, part, e, lifted, log1p, lost, inverse, rises, margin, rest_of_margin, gamma, low,
    ANY_SIZE: tl.constexpr,
):  # fmt: skip
    """The same with a margin m: p = σ(z) − m = n/(1 + e), and 1 − p = k/(1 + e). Where n ≤ 0 both are 0; else::

        loss = p^γ·L,   L = −log(1 − p),   d/dz = p^γ·(e/k + γ·L·e/n)/(1 + e)

    n is 1 − m − m·e, or e − m − m·e with e in its two parts: near the margin it is a small difference.
    """
    t: tl.constexpr = 1 if e.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    one, nothing, exact = like(1.0, e), like(0.0, e), power_of_e * drop
    n = tl.fma(tl.where(rises, nothing, exact), part, tl.where(rises, one, exact) - margin)
    n = tl.fma(-margin, e, n - rest_of_margin)
    k = tl.fma(margin, 1.0 + e, tl.where(rises, e, one))
    counts = (n <= 0) == 0
    n = tl.where(counts, n, one)
    value = minus_log_near(k * inverse, n * inverse) + (e - e)  # it is made of bits, which would hide a NaN
    slope = divided(lifted, k)
    if gamma is not None:
        slope = tl.fma(gamma * value, divided(lifted, n), slope)
        log, rest = lanes.minus_log_of(n)
        power, q = power_of_sum(gamma, low, log, log1p * drop, lost * drop + rest)
    loss = coefficient * value
    slope = dropped(coefficient * factor, slope * inverse, drop, ANY_SIZE)
    if gamma is not None:
        loss, slope = powered(loss, power, q), powered(slope, power, q)
    return tl.where(counts, loss, nothing), tl.where(counts, slope, nothing)


@device_function
def logits(
    x, positive, negative, factor, gamma, low, of_negatives, low_of_negatives, margin, rest_of_margin,
    ANY_SIZE: tl.constexpr,
):  # fmt: skip
    below, size = is_negative(x), tl.abs(x)
    above = below == 0
    power, part, lifted, e = lanes.logit_parts(size, False)
    log1p, lost = log1p_of(lifted)
    inverse = inverse_of_sum(e)
    loss, falling = logit_branch(
        positive, factor, size, e, lifted, log1p, lost, inverse, below, gamma, low, ANY_SIZE
    )  # fmt: skip
    if margin is None:
        other, rising = logit_branch(
            negative, factor, size, e, lifted, log1p, lost, inverse, above, of_negatives, low_of_negatives, ANY_SIZE
        )
    else:
        other, rising = margin_branch(
            negative, factor, power, part, e, lifted, log1p, lost, inverse, above, margin, rest_of_margin,
            of_negatives, low_of_negatives, ANY_SIZE,
        )  # fmt: skip
    return loss + other, rising - falling


@device_function
def p_t_logits(x, positive, negative, y, rest, alpha, factor, gamma, low, ANY_SIZE: tl.constexpr):
    """With y and 1 − y before any weight in the order of |x|, b leads and a trails, and with l = log1p(e)::

        u    = (b + a·e)/(1 + e),   C = leading·(|x| + l) + trailing·l
        loss = α_t·u^γ·C
        d/dx = ±α_t·u^γ·[ (leading − trailing·e)/(1 + e) + γ·C·(b − a)·e/((b + a·e)·(1 + e)) ]

    Where b is 0, a is 1 and u is e/(1 + e): all of it is e, lifted, times a number near 1. ``alpha`` may be None.
    """
    t: tl.constexpr = 1 if x.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    below, size, one, nothing = is_negative(x), tl.abs(x), like(1.0, x), like(0.0, x)
    leading, trailing = tl.where(below, positive, negative), tl.where(below, negative, positive)
    b, a = tl.where(below, y, rest), tl.where(below, rest, y)
    _, _, lifted, e = lanes.logit_parts(size, False)
    log1p, lost = log1p_of(lifted)
    trails = b == 0
    log = tl.where(trails, log1p, log1p * drop)
    value = tl.fma(leading + trailing, log, leading * seen(leading, size))
    slope = tl.fma(-trailing, tl.where(trails, lifted, e), leading)
    if gamma is not None:
        numerator = tl.fma(a, e, b)
        finite = within(size, like(EXP_LIMIT[t], x))
        bounded = tl.fma(leading + trailing, log, leading * finite)
        ratio = tl.where(numerator > 0, divided(e, tl.where(numerator > 0, numerator, one)), nothing)
        slope = tl.fma(gamma * bounded, tl.where(trails, -one, (b - a) * ratio), slope)
        of_u = tl.where(trails, a, numerator)
        other, rest_of_log = lanes.minus_log_of(of_u)
        other = tl.where(trails, finite + other, other)
        power, q = power_of_sum(gamma, low, other, log1p * drop, lost * drop + rest_of_log)
        power = tl.where(of_u <= 0, nothing, power)
    if alpha is None:
        alpha = one
    own = tl.where(trails, like(drop, x), one)
    loss = dropped(alpha, tl.where((alpha == 0) & (value == float("inf")), nothing, value), own, False)
    slope = dropped(alpha * factor, slope * inverse_of_sum(e), own, ANY_SIZE)
    if gamma is not None:
        small = powered(loss, power, q)
        # An infinite loss times a q of 0 is NaN; and times a power of 0 it is 0.
        loss = tl.where((small == small) | (loss != loss), small, tl.where(power == 0, nothing, loss))
        slope = powered(slope, power, q)
    return loss, lanes.with_sign_of(x, slope)


@device_function
def bounded_product(q):
    """q·(1 − q), raised, and the denominator of the gradient, which is at least 1e-12, raised likewise."""
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    product = q * RAISE[t] * (1.0 - q)
    least = like(lanes.TINY_PRODUCT * RAISE[t], q)
    return product, tl.where(product < least, least, product)


@device_function
def power_of_log(gamma, low, value, lost):
    """exp(−γ·value), and 0 of a logarithm that is clamped."""
    power, q = power_of(gamma, low, value, lost)
    return tl.where(value < lanes.LOG_CLAMP, power, like(0.0, value)), q


@device_function
def probabilities(
    q, positive, negative, factor, gamma, low, of_negatives, low_of_negatives, margin, rest_of_margin
):  # fmt: skip
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    one, nothing, other = like(1.0, q), like(0.0, q), 1.0 - q
    _, denominator = bounded_product(q)
    minus_log, lost = lanes.clamped_minus_log(q)
    minus_log1m, lost1m = lanes.clamped_minus_log1m(q)
    loss, falling = positive * minus_log, other
    if gamma is not None:
        falling = tl.fma(gamma * q, minus_log, other)
    falling = positive * (factor * RAISE[t]) * falling
    if gamma is not None:
        power, part = power_of_log(gamma, low, minus_log1m, lost1m)
        loss, falling = powered(loss, power, part), powered(falling, power, part)
    if margin is None:
        less, rising = negative * minus_log1m, q * RAISE[t]
        if of_negatives is not None:
            rising = tl.fma(of_negatives * (RAISE[t] * other), minus_log1m, rising)
        rising = negative * factor * rising
        if of_negatives is not None:
            power, part = power_of_log(of_negatives, low_of_negatives, minus_log, lost)
            less, rising = powered(less, power, part), powered(rising, power, part)
        return loss + less, divided(rising - falling, denominator)
    else:
        shifted, rest = (q - margin) - rest_of_margin, other + margin
        counts = (shifted <= 0) == 0
        shifted = tl.where(counts, shifted, one)
        value = minus_log_near(tl.where(counts, rest, one), tl.where(counts, shifted, nothing))
        less, rising = negative * value, divided(one, rest)
        if of_negatives is not None:
            rising += of_negatives * divided(value, shifted)
        rising = negative * factor * rising
        if of_negatives is not None:
            log, rest_of_log = lanes.minus_log_of(shifted)
            power, part = power_of(of_negatives, low_of_negatives, log, rest_of_log)
            less, rising = powered(less, power, part), powered(rising, power, part)
        less, rising = tl.where(counts, less, nothing), tl.where(counts, rising, nothing)
        return loss + less, rising - divided(falling, denominator)


@device_function
def p_t_probabilities(q, positive, negative, y, rest, alpha, factor, gamma, low):
    """With u = y·(1 − q) + (1 − y)·q and C = positive·(−log q) + negative·(−log(1 − q))::

    loss = α_t·u^γ·C
    d/dq = α_t·u^γ·[ negative·q − positive·(1 − q) + γ·C·(1 − 2y)·q·(1 − q)/u ] / (q·(1 − q))
    """
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    other, nothing = 1.0 - q, like(0.0, q)
    _, denominator = bounded_product(q)
    minus_log, _ = lanes.clamped_minus_log(q)
    minus_log1m, lost1m = lanes.clamped_minus_log1m(q)
    raised = q * RAISE[t]
    loss = tl.fma(positive, minus_log, negative * minus_log1m)
    slope = negative * raised - positive * (other * RAISE[t])
    if gamma is not None:
        u = tl.fma(y, other, rest * q)
        has_power = (u <= 0) == 0
        u = tl.where(has_power, u, like(1.0, q))
        slope += gamma * loss * (rest - y) * other * divided(raised, u)
        log, lost = lanes.minus_log_of(u)
        is_positive = rest == 0  # then u is 1 − q, which may round
        log, lost = tl.where(is_positive, minus_log1m, log), tl.where(is_positive, lost1m, lost)
        power, part = power_of(gamma, low, log, lost)
    slope = divided(slope, denominator)
    if alpha is not None:
        loss, slope = alpha * loss, alpha * slope
    slope = slope * factor
    if gamma is not None:
        loss, slope = powered(loss, power, part), powered(slope, power, part)
        loss, slope = tl.where(has_power, loss, nothing), tl.where(has_power, slope, nothing)
    return loss, slope
