"""Computes one element on a GPU with the options of ``focal``: two powers, a margin, and the power of p_t.

It is made of what ``lanes`` has, as ``native/lanes/family.h`` is of ``math.h``. A power t^γ = exp(−γ·(−log t)) keeps
its exponent in two parts, since its error is that of the exponent, and comes last in a product. Of a logit in the tail
e is lifted, so that neither the loss nor the gradient loses digits on the way.

A ``gamma`` is None where its branch has no power, and ``low`` is what γ lost when it was rounded. Each function returns
the loss, and the gradient times factor.
"""

from __future__ import annotations

import triton.language as tl

from binxent.kernels.triton import lanes
from binxent.kernels.triton.lanes import constant, device_function, divided, is_negative, like

LIFT, RAISE, EXP_LIMIT = lanes.LIFT, lanes.RAISE, lanes.EXP_LIMIT
LARGEST = constant((float.fromhex("0x1.fffffep127"), float.fromhex("0x1.fffffffffffffp1023")))


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
def dropped(one, other, drop):
    """one·other·drop, where ``drop`` takes the lift off ``other``. It is taken off the factor that stands it: off
    ``one`` if that is above 1, and may bring the other back from where it would be subnormal; else off the other."""
    large = tl.abs(one) > 1
    return lanes.times(tl.where(large, one * drop, one), tl.where(large, other, other * drop))


@device_function
def powered(value, power, q):
    """value·2ⁿ·(1 + q). Where the power is tiny the value still has its digits, and 2ⁿ is exact."""
    t: tl.constexpr = 1 if value.dtype == tl.float64 else 0
    large = tl.abs(value) > 1
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    scaled = tl.where(large, value * drop, value) * tl.where(large, power, power * drop)
    return tl.fma(scaled, q, scaled)


@device_function
def reach(gamma):
    """From this −log t on, t^γ is 0: it bounds what γ multiplies."""
    t: tl.constexpr = 1 if gamma.dtype == tl.float64 else 0
    return within(divided(like(EXP_LIMIT[t], gamma), gamma), like(LARGEST[t], gamma))


@device_function
def within(value, most):
    """At most that; NaN stays."""
    return tl.where(value > most, most, value)


@device_function
def softplus_of(lifted):
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
def logit_branch(coefficient, factor, size, e, lifted, softplus, lost, inverse, rises, gamma, low):
    """The branch of a negative at the logit z, |z| = size, which is above 0 where it ``rises``::

        loss = σ(z)^γ·softplus(z),   d/dz = σ(z)^γ·(σ(z) + γ·σ(−z)·softplus(z))

    The branch of a positive is that of −z. ``softplus`` is log1p(e), and lifted.
    """
    t: tl.constexpr = 1 if e.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    log1p = softplus * drop
    value = tl.where(rises, size + log1p, softplus)
    slope = tl.where(rises, like(1.0, e), lifted)
    if gamma is not None:
        finite = within(size, like(EXP_LIMIT[t], e))
        more, rest = tl.where(rises, (finite + log1p) * e, softplus), tl.where(rises, like(0.0, e), lost)
        slope = tl.fma(gamma, more, tl.fma(gamma, rest, slope))
        beyond = tl.where(rises, like(0.0, e), within(finite, reach(gamma)))
        power, q = power_of_sum(gamma, low, beyond, log1p, lost * drop)
    own = tl.where(rises, like(1.0, e), like(drop, e))
    loss, slope = dropped(coefficient, value, own), dropped(coefficient * factor, slope * inverse, own)
    if gamma is not None:
        small = powered(loss, power, q)
        loss, slope = tl.where(small == small, small, loss), powered(slope, power, q)  # an infinite loss times 0
    return loss, slope


@device_function
def minus_log_near(u, less):
    """−log u of a u in (0, 1]; ``less`` is 1 − u, of which u has lost digits where it is above ½."""
    m, exponent = lanes.mantissa_and_exponent(u)
    f = tl.where(exponent == 0, -less, tl.where(u >= 0.5, tl.fma(less, like(-2.0, u), like(1.0, u)), m - 1.0))
    return lanes.minus_log(f, exponent.to(u.dtype))


@device_function
def margin_branch(
    coefficient, factor, power_of_e, part, e, lifted, softplus, lost, inverse, rises, margin, rest_of_margin, gamma, low
):  # fmt: skip
    """The same with a margin m: p = σ(z) − m = n/(1 + e), and 1 − p = k/(1 + e). Where n ≤ 0 both are 0; else::

        loss = p^γ·L,   L = −log(1 − p),   d/dz = p^γ·(e/k + γ·L·e/n)/(1 + e)

    n is 1 − m − m·e, or e − m − m·e with e in its two parts: near the margin it is a small difference.
    """
    t: tl.constexpr = 1 if e.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    one, nothing, power = like(1.0, e), like(0.0, e), power_of_e * drop
    above = tl.where(rises, one, power) - margin
    above = tl.fma(tl.where(rises, nothing, power), part, above) - rest_of_margin
    n = tl.fma(-margin, e, above)
    k = tl.fma(margin, 1.0 + e, tl.where(rises, e, one))
    counts = (n <= 0) == 0
    n = tl.where(counts, n, one)
    value, _ = minus_log_near(k * inverse, n * inverse)
    value = value + (e - e)  # it is made of bits, which would hide a NaN
    slope = divided(lifted, k)
    if gamma is not None:
        slope = tl.fma(gamma * value, divided(lifted, n), slope)
        of_n, rest = lanes.minus_log_of(n)
        power, q = power_of_sum(gamma, low, within(of_n, reach(gamma)), softplus * drop, lost * drop + rest)
    loss, slope = coefficient * value, dropped(coefficient * factor, slope * inverse, like(drop, e))
    if gamma is not None:
        loss, slope = powered(loss, power, q), powered(slope, power, q)
    return tl.where(counts, loss, nothing), tl.where(counts, slope, nothing)


@device_function
def logits(x, positive, negative, factor, gamma, low, of_negatives, low_of_negatives, margin, rest_of_margin):
    below, size = is_negative(x), tl.abs(x)
    power, part, lifted, e = lanes.logit_parts(size, False)
    softplus, lost = softplus_of(lifted)
    inverse = inverse_of_sum(e)
    above = below == 0
    loss, falling = logit_branch(positive, factor, size, e, lifted, softplus, lost, inverse, below, gamma, low)
    if margin is None:
        other, rising = logit_branch(
            negative, factor, size, e, lifted, softplus, lost, inverse, above, of_negatives, low_of_negatives
        )
    else:
        other, rising = margin_branch(
            negative, factor, power, part, e, lifted, softplus, lost, inverse, above, margin, rest_of_margin,
            of_negatives, low_of_negatives,
        )  # fmt: skip
    return loss + other, rising - falling


@device_function
def p_t_logits(x, positive, negative, y, rest, alpha, factor, gamma, low):
    """With y and 1 − y before any weight in the order of |x|, b leads and a trails, and with l = log1p(e)::

        u    = (b + a·e)/(1 + e),   C = leading·(|x| + l) + trailing·l
        loss = α_t·u^γ·C
        d/dx = ±α_t·u^γ·[ (leading − trailing·e)/(1 + e) + γ·C·(b − a)·e/((b + a·e)·(1 + e)) ]

    Where b is 0, a is 1 and u is e/(1 + e): all of it is e, lifted, times a number near 1. ``alpha`` may be None.
    """
    t: tl.constexpr = 1 if x.dtype == tl.float64 else 0
    below, size, nothing = is_negative(x), tl.abs(x), like(0.0, x)
    leading, trailing = tl.where(below, positive, negative), tl.where(below, negative, positive)
    b, a = tl.where(below, y, rest), tl.where(below, rest, y)
    _, _, lifted, e = lanes.logit_parts(size, False)
    softplus, lost = softplus_of(lifted)
    trails = b == 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    high, log1p = tl.where(trails, lifted, e), tl.where(trails, softplus, softplus * drop)
    value = tl.fma(leading + trailing, log1p, lanes.times(leading, size))
    slope = tl.fma(-trailing, high, leading)
    if gamma is not None:
        numerator = tl.fma(a, e, b)
        of_u = tl.where(trails, a, numerator)
        finite = within(size, like(EXP_LIMIT[t], x))
        bounded = tl.fma(leading + trailing, log1p, leading * finite)
        ratio = tl.where(numerator > 0, divided(e, tl.where(numerator > 0, numerator, like(1.0, x))), nothing)
        by = tl.where(trails, like(-1.0, x), (b - a) * ratio)
        slope = tl.fma(gamma * bounded, by, slope)
        log, rest_of_log = lanes.minus_log_of(of_u)
        beyond = within(tl.where(trails, size + log, log), reach(gamma))
        power, q = power_of_sum(gamma, low, beyond, softplus * drop, lost * drop + rest_of_log)
        power = tl.where(of_u <= 0, nothing, power)
    if alpha is None:
        alpha = like(1.0, x)
    own = tl.where(trails, like(drop, x), like(1.0, x))
    loss, slope = dropped(alpha, value, own), dropped(alpha * factor, slope * inverse_of_sum(e), own)
    if gamma is not None:
        small = powered(loss, power, q)
        # An infinite loss times 0 is NaN, and 0 where that is the power of a u of 0.
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
    power, q = power_of_sum(gamma, low, within(value, reach(gamma)), like(0.0, value), lost)
    return tl.where(value < lanes.LOG_CLAMP, power, like(0.0, value)), q


@device_function
def probabilities(q, positive, negative, factor, gamma, low, of_negatives, low_of_negatives, margin, rest_of_margin):
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
    falling = divided(falling, denominator)
    if margin is None:
        less, rising = negative * minus_log1m, q * RAISE[t]
        if of_negatives is not None:
            rising = tl.fma(of_negatives * (RAISE[t] * other), minus_log1m, rising)
        rising = negative * factor * rising
        if of_negatives is not None:
            power, part = power_of_log(of_negatives, low_of_negatives, minus_log, lost)
            less, rising = powered(less, power, part), powered(rising, power, part)
        return loss + less, divided(rising, denominator) - falling
    else:
        shifted, rest = (q - margin) - rest_of_margin, other + margin
        counts = (shifted <= 0) == 0
        shifted = tl.where(counts, shifted, one)
        value, _ = minus_log_near(tl.where(counts, rest, one), tl.where(counts, shifted, nothing))
        less, rising = negative * value, divided(one, rest)
        if of_negatives is not None:
            rising += of_negatives * divided(value, shifted)
        rising = negative * factor * rising
        if of_negatives is not None:
            log, rest_of_log = lanes.minus_log_of(shifted)
            log = within(log, reach(of_negatives))
            power, part = power_of_sum(of_negatives, low_of_negatives, log, nothing, rest_of_log)
            less, rising = powered(less, power, part), powered(rising, power, part)
        return loss + tl.where(counts, less, nothing), tl.where(counts, rising, nothing) - falling


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
        power, part = power_of_sum(gamma, low, within(log, reach(gamma)), nothing, lost)
    slope = divided(slope, denominator)
    if alpha is not None:
        loss, slope = alpha * loss, alpha * slope
    slope = slope * factor
    if gamma is not None:
        loss, slope = powered(loss, power, part), powered(slope, power, part)
        loss, slope = tl.where(has_power, loss, nothing), tl.where(has_power, slope, nothing)
    return loss, slope
