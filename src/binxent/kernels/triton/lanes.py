"""Computes one element on a GPU: ``formula``, in Triton.

The steps are those of ``native/lanes/math.h``, which docs/computation.md explains: exp in two parts, lifted so that no
tail is subnormal on the way; log1p as one polynomial; every result rounded once. Each fused multiply-add is written
out, and the compiler is told to fuse nothing else, so the interpreter and every card round alike.

A function works in the type of its first argument, float32 or float64. ``SHORT`` is for results of half types: it keeps
15 bits of exp and log1p, where the result has 8 or 11, and the same 15 in the tails.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from binxent import formula
from binxent.kernels.triton import coefficients

INTERPRETED: bool = triton.knobs.runtime.interpret  # read now, when the functions below are decorated


def constant(value: Any) -> Any:
    """A value that the functions below may use. The compiler wants it marked, and the interpreter wants it plain."""
    return value if INTERPRETED else tl.constexpr(value)


def device_function(function: Any) -> Any:
    """Marks a function that a program calls. The interpreter gets it unmarked, and is four times as fast: at each call
    of a marked one it would patch the whole language again."""
    return function if INTERPRETED else triton.jit(function)


ON_CARD = constant(not INTERPRETED)
EXP_SINGLE, EXP_DOUBLE = constant(coefficients.EXP_SINGLE), constant(coefficients.EXP_DOUBLE)
LOG1P_SINGLE, LOG1P_DOUBLE = constant(coefficients.LOG1P_SINGLE), constant(coefficients.LOG1P_DOUBLE)
LOG_SINGLE, LOG_DOUBLE = constant(coefficients.LOG_SINGLE), constant(coefficients.LOG_DOUBLE)
LOG1P_SHORT = constant(formula.LOG1P_SHORT)

# Of each pair, the first is float32's.
MANTISSA, BIAS = constant((23, 52)), constant((127, 1023))
LIFT = constant((40, 64))  # e is lifted by this power of two
EXP_LIMIT = constant((115.6, 753.4))  # from here on e is 0
LOG2_E = constant((float.fromhex("0x1.715476p+0"), float.fromhex("0x1.71547652b82fep+0")))
# Of ln 2: the high part has 9 or 32 bits, so that its product with an exponent is exact.
LN2_HIGH = constant((float.fromhex("0x1.63p-1"), float.fromhex("0x1.62e42feep-1")))
LN2_LOW = constant((float.fromhex("-0x1.bd0106p-13"), float.fromhex("0x1.a39ef35793c76p-33")))
ROUNDER = constant((1.5 * 2.0**23, 1.5 * 2.0**52))  # numbers of this size are integers
SIGN = constant((-(2**31), -(2**63)))
EXPONENT = constant((0x7F800000, 0x7FF << 52))  # its bits
HALF_ROOT = constant((0x3F3504F3, 0x3FE6A09E667F3BCD))  # the bits of 1/√2
SMALLEST_NORMAL = constant((2.0**-126, 2.0**-1022))
RAISE = constant((2.0**40, 2.0**100))

LOG_CLAMP = constant(100.0)
TINY_PRODUCT = constant(1e-12)
LARGEST_FLOAT16 = constant(65504.0)
LEAST_FACTOR, MOST_FACTOR, LIFT_FACTOR = constant(2.0**-60), constant(2.0**60), constant(2.0**64)


@device_function
def like(value: tl.constexpr, x):
    """The value in the type and shape of x. Written as a plain number, it would be rounded to float32 in places."""
    return tl.full(x.shape, value, x.dtype)


@device_function
def bits_of(x):
    return x.to(tl.int64 if x.dtype == tl.float64 else tl.int32, bitcast=True)


@device_function
def is_negative(x):
    """By the sign bit: −0 is negative. Both halves of the definition agree at 0."""
    return bits_of(x) < 0


@device_function
def with_sign_of(x, value):
    """``value``, negated where x is negative."""
    t: tl.constexpr = 1 if x.dtype == tl.float64 else 0
    return (bits_of(value) ^ (bits_of(x) & SIGN[t])).to(x.dtype, bitcast=True)


@device_function
def polynomial(x, c: tl.constexpr):
    value = like(c[len(c) - 1], x)
    for k in tl.static_range(len(c) - 1):
        value = tl.fma(value, x, like(c[len(c) - 2 - k], x))
    return value


@device_function
def exp_of_minus(size, rest):
    """exp(−(size + rest)) = 2ⁿ·(1 + q), as the lifted 2ⁿ and q; ``rest`` is None or small beside ``size``."""
    t: tl.constexpr = 1 if size.dtype == tl.float64 else 0
    limit = like(EXP_LIMIT[t], size)
    a = tl.where(size > limit, limit, size)  # NaN stays NaN
    # Adding the rounder leaves n, with its bias, in the low bits: 0 at the limit.
    rounder = like(ROUNDER[t] + (BIAS[t] + LIFT[t]), size)
    rounded = tl.fma(a, like(-LOG2_E[t], size), rounder)
    n = rounded - rounder
    r = tl.fma(n, like(LN2_HIGH[t], size), a)
    if rest is not None:  # beyond the limit it may be anything
        r = r + tl.where(size > limit, like(0.0, size), rest)
    r = -tl.fma(n, like(LN2_LOW[t], size), r)
    power = (bits_of(rounded) << MANTISSA[t]).to(size.dtype, bitcast=True)
    if t == 1:
        p = polynomial(r, EXP_DOUBLE)
    else:
        p = polynomial(r, EXP_SINGLE)
    return power, tl.fma(r * r, p, r)


@device_function
def quick_exp2(x):
    """2ˣ to 22 bits, where neither x nor the result is subnormal: for those the general one has three instructions."""
    if ON_CARD:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return tl.exp2(x)


@device_function
def quick_inverse(x):
    """1/x to 22 bits, likewise."""
    if ON_CARD:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return 1.0 / x


@device_function
def logit_parts(size, SHORT: tl.constexpr):
    """e = exp(−size): lifted, as a power of two and q; as one number, lifted; and as one number.

    If SHORT the "power" is e itself, and q, of no use, is 0.
    """
    t: tl.constexpr = 1 if size.dtype == tl.float64 else 0
    if SHORT:
        power = quick_exp2(tl.fma(size, like(-LOG2_E[0], size), like(LIFT[0], size)))
        lifted, q = power, like(0.0, size)
    else:
        power, q = exp_of_minus(size, None)
        lifted = tl.fma(power, q, power)
    return power, q, lifted, lifted * (2.0 ** -LIFT[t])


@device_function
def log1p_rest(e, SHORT: tl.constexpr):
    """P(e), where log1p(e) = ¾·e + e·P(e), or e·P(e) if SHORT."""
    if SHORT:
        return polynomial(e, LOG1P_SHORT)
    elif e.dtype == tl.float64:
        return polynomial(e, LOG1P_DOUBLE)
    else:
        return polynomial(e, LOG1P_SINGLE)


@device_function
def logit_loss(size, lifted, e, leading, total, SHORT: tl.constexpr):
    """leading·|x| + total·log1p(e): softplus(±x) = max(±x, 0) + log1p(e).

    ``leading`` is the coefficient of the branch that grows with |x|; where it is 0 it hides an infinite |x|. ``total``
    adds that of the other one, or is None for 1. Only a total above 1 needs the lifted e, and only such a total can be
    dropped by its power of two without losing digits of its own.
    """
    t: tl.constexpr = 1 if size.dtype == tl.float64 else 0
    growth = tl.where(leading != 0, size, like(0.0, size))
    rest = log1p_rest(e, SHORT)
    if total is None:
        power = e
        if SHORT:
            return tl.fma(power, rest, leading * growth)
        else:
            return tl.fma(power, like(0.75, size), tl.fma(leading, growth, rest * power))
    else:
        large = tl.abs(total) > 1
        scale = tl.where(large, total * (2.0 ** -LIFT[t]), total)
        power = tl.where(large, lifted, e)
        if SHORT:
            return tl.fma(leading, growth, scale * rest * power)
        else:
            return tl.fma(power, scale * 0.75, tl.fma(leading, growth, scale * rest * power))


@device_function
def scaled_power(power, coefficient, factor, ANY_SIZE: tl.constexpr):
    """coefficient·factor·2ⁿ. ``ANY_SIZE``: the coefficient may be so small that dropping it would lose its digits."""
    t: tl.constexpr = 1 if power.dtype == tl.float64 else 0
    drop: tl.constexpr = 2.0 ** -LIFT[t]
    if ANY_SIZE:
        product = coefficient * factor
        large = tl.abs(product) > 1
        return tl.where(large, product * drop, product) * tl.where(large, power, power * drop)
    else:
        return coefficient * (factor * drop) * power


@device_function
def logit_gradient(
    x, power, q, e, leading, trailing, lost, factor, ANY_SIZE: tl.constexpr, SHORT: tl.constexpr
):  # fmt: skip
    """±(leading − trailing·e)·factor / (1 + e), negative where x is.

    σ(|x|) = 1/(1+e) and σ(−|x|) = e/(1+e), neither made from the other. ``lost`` is what rounding the leading
    coefficient lost, or None.
    """
    scale = scaled_power(power, trailing, factor, ANY_SIZE)
    numerator = tl.fma(leading, factor, -scale)
    if lost is not None:
        numerator = tl.fma(leading, factor, tl.fma(lost, factor, -scale))
    denominator = 1.0 + e
    if SHORT:
        return with_sign_of(x, numerator * quick_inverse(denominator))
    else:
        numerator = tl.fma(-scale, q, numerator)
        # One step of long division takes back what rounding 1 + e, and a division that is not exact, have lost.
        inverse = like(1.0, x) / denominator
        quotient = numerator * inverse
        remainder = tl.fma(-quotient, e, numerator - quotient)
        return with_sign_of(x, tl.fma(remainder, inverse, quotient))


@device_function
def logits(x, positive, negative, lost, factor, WEIGHTED: tl.constexpr, SHORT: tl.constexpr):
    """Loss, and gradient times factor. ``WEIGHTED``: the coefficients' sum may be other than 1."""
    below = is_negative(x)
    size = tl.abs(x)
    leading, trailing = tl.where(below, positive, negative), tl.where(below, negative, positive)
    power, q, lifted, e = logit_parts(size, SHORT)
    if lost is not None:
        # 1 − y leads where x is not negative. It is NaN for an infinite target or weight.
        lost = tl.where(below | (lost != lost), like(0.0, x), lost)
    if WEIGHTED:
        loss = logit_loss(size, lifted, e, leading, leading + trailing, SHORT)
    else:
        loss = logit_loss(size, lifted, e, leading, None, SHORT)
    return loss, logit_gradient(x, power, q, e, leading, trailing, lost, factor, WEIGHTED, SHORT)


@device_function
def minus_log(f, exponent):
    """−log((1 + f)·2^exponent), 1 + f in [1/√2, √2), and what the last rounding of it lost: its product is exact."""
    t: tl.constexpr = 1 if f.dtype == tl.float64 else 0
    if t == 1:
        p = polynomial(f, LOG_DOUBLE)
    else:
        p = polynomial(f, LOG_SINGLE)
    rest = tl.fma(f * f, p, tl.fma(exponent, like(LN2_LOW[t], f), f))
    value = -tl.fma(exponent, like(LN2_HIGH[t], f), rest)
    return value, -(tl.fma(exponent, like(LN2_HIGH[t], f), value) + rest)


@device_function
def mantissa_and_exponent(normal):
    """A number above 0 as m·2^k, with m in [1/√2, √2) and k an integer."""
    t: tl.constexpr = 1 if normal.dtype == tl.float64 else 0
    shifted = bits_of(normal) - HALF_ROOT[t] + (BIAS[t] << MANTISSA[t])
    m = ((shifted & ((1 << MANTISSA[t]) - 1)) + HALF_ROOT[t]).to(normal.dtype, bitcast=True)
    return m, (shifted >> MANTISSA[t]) - BIAS[t]


@device_function
def minus_log_of(q):
    """−log q of a q above 0, in two parts."""
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    subnormal = q < SMALLEST_NORMAL[t]
    m, k = mantissa_and_exponent(tl.where(subnormal, q * (2.0 ** LIFT[t]), q))
    exponent = k.to(q.dtype) - tl.where(subnormal, LIFT[t] * 1.0, 0.0).to(q.dtype)
    return minus_log(m - 1.0, exponent)


@device_function
def clamped_minus_log(q):
    """−log q, at most 100, and what rounding it lost."""
    value, lost = minus_log_of(q)
    return tl.where((q == 0) | (value > LOG_CLAMP), like(LOG_CLAMP, q), value), lost


@device_function
def clamped_minus_log1m(q):
    """−log(1 − q), at most 100, and what rounding it lost. 1 − q itself may round; f = 2^−k·(1 − q) − 1 =
    (2^−k − 1) − 2^−k·q never does."""
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    rest = 1.0 - q
    exponent = ((bits_of(rest) - HALF_ROOT[t] + (BIAS[t] << MANTISSA[t])) >> MANTISSA[t]) - BIAS[t]
    scale = ((BIAS[t] - exponent) << MANTISSA[t]).to(q.dtype, bitcast=True)  # 2^−k
    value, lost = minus_log(tl.fma(-scale, q, scale - 1.0), exponent.to(q.dtype))
    return tl.where((rest == 0) | (value > LOG_CLAMP), like(LOG_CLAMP, q), value), lost


@device_function
def probability_gradient(q, positive, negative, factor):
    """The denominator is clamped as the frameworks do, which bounds the gradient by 1e12, and turns subnormal
    probabilities into normal gradients: both parts of the fraction are raised, so that those keep their digits.

    No fused multiply-add: both products are rounded alike, so that the gradient is 0 where q = y.
    """
    t: tl.constexpr = 1 if q.dtype == tl.float64 else 0
    raised, other = q * RAISE[t], 1.0 - q
    product = raised * other
    least = like(TINY_PRODUCT * RAISE[t], q)
    denominator = tl.where(product < least, least, product)
    return divided((negative * raised - positive * (other * RAISE[t])) * factor, denominator)


@device_function
def probabilities(q, positive, negative, factor):
    """Loss, and gradient times factor."""
    of_positive, _ = clamped_minus_log(q)
    of_negative, _ = clamped_minus_log1m(q)
    loss = positive * of_positive + negative * of_negative
    return loss, probability_gradient(q, positive, negative, factor)


@device_function
def divided(numerator, denominator):
    """The quotient, correctly rounded. A plain division of float32 is an ulp or two off on a card."""
    if numerator.dtype == tl.float32:
        return tl.div_rn(numerator, denominator)
    else:
        return numerator / denominator


@device_function
def factor_of(incoming, divisor, PROBABILITIES: tl.constexpr):
    """incoming / divisor as two factors. Where a loop would lose digits or overflow on the way, the first is the
    mantissa, and the second, a power of two or infinity, multiplies the loop's result. 0 if the divisor is 0."""
    t: tl.constexpr = 1 if incoming.dtype == tl.float64 else 0
    one = like(1.0, incoming)
    nothing = divisor == 0
    incoming, divisor = tl.where(nothing, like(0.0, incoming), incoming), tl.where(nothing, one, divisor)
    factor = divided(incoming, divisor)
    size = tl.abs(factor)
    infinite, small = size == float("inf"), (size < LEAST_FACTOR) & (incoming != 0)
    # A small quotient may be subnormal: it is computed again 2⁶⁴ times larger, by whichever operand allows that.
    up = tl.where(small & (tl.abs(incoming) < 1), like(LIFT_FACTOR, incoming), one)
    down = tl.where(small & (tl.abs(incoming) >= 1), like(1 / LIFT_FACTOR, incoming), one)
    factor = divided(incoming * up, divisor * down)
    power = (bits_of(factor) & EXPONENT[t]).to(factor.dtype, bitcast=True)
    apart = infinite | small
    if PROBABILITIES:  # their gradient is up to 1e12 times as large
        apart = apart | (size > MOST_FACTOR)
    power = tl.where(apart & (power != 0), power, one)
    within = tl.where(infinite, with_sign_of(factor, one), divided(factor, power))
    return within, tl.where(small, power * (1 / LIFT_FACTOR), power)


@device_function
def widened(value, dtype: tl.constexpr):
    """An operand's value in the arithmetic's type, which holds it exactly, but for wide integers and float64."""
    if not ON_CARD and value.dtype == tl.bfloat16:  # the interpreter would lose subnormal numbers
        raw = value.to(tl.int16, bitcast=True).to(tl.int32) << 16
        return raw.to(tl.float32, bitcast=True).to(dtype)
    else:
        return value.to(dtype)


@device_function
def saturated(value):
    """The gradient of probabilities within float16's range; in other types it is bounded by 1e12. NaN stays."""
    most = like(LARGEST_FLOAT16, value)
    value = tl.where(value > most, most, value)
    return tl.where(value < -most, -most, value)


@device_function
def narrowed(value, dtype: tl.constexpr):
    """The value in a result's dtype, rounded once to the nearest, ties to even."""
    if value.dtype == tl.float64 and (dtype == tl.bfloat16 or dtype == tl.float16):
        value = to_odd(value)
    if not ON_CARD and dtype == tl.bfloat16 and value.dtype == tl.float32:  # the interpreter would truncate
        return nearest_bfloat16(value)
    else:
        return value.to(dtype)


@device_function
def to_odd(value):
    """float64 in float32, rounded to the neighbour whose last bit is 1 unless it is exact: a second rounding, to a half
    type, then gives what one alone would."""
    near = value.to(tl.float32)
    wide = near.to(tl.float64)
    raw = near.to(tl.int32, bitcast=True)
    raw = tl.where(tl.abs(wide) > tl.abs(value), raw - 1, raw)
    raw = tl.where((wide != value) & (value == value), raw | 1, raw)
    return raw.to(tl.float32, bitcast=True)


@device_function
def nearest_bfloat16(value):
    raw = value.to(tl.int32, bitcast=True)
    rounded = (raw + 0x7FFF + ((raw >> 16) & 1)) >> 16
    rounded = tl.where(value == value, rounded, 0x7FC0)
    return rounded.to(tl.int16).to(tl.bfloat16, bitcast=True)
