// All that is computed of one element: formula.py, vectorised.
//
// These are plain functions of scalars. The loops of loops.h call them, and the compiler makes vector code of those, once
// for each instruction set. All of it is IEEE arithmetic in a fixed order, so that every instruction set with a fused
// multiply-add gives the same bits. No library function is called: exp, log and log1p are the polynomials of
// coefficients.h. docs/computation.md says why each step is as it is.
//
// In the order of this file: the types' constants and bits; the coefficients of the two branches; a logit; a probability.
// The focal loss of either stands in focal.h.
#pragma once

#include <cstdint>

#include "coefficients.h"
#include "core/inline.h"

namespace binxent::BINXENT_ISA {

// Where the machine has no such instruction, a multiplication and an addition take its place: the library's fma would cost
// 25 times as much.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define BINXENT_FMA
BINXENT_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
BINXENT_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
BINXENT_INLINE float fma(float a, float b, float c) { return a * b + c; }
BINXENT_INLINE double fma(double a, double b, double c) { return a * b + c; }
#endif

template <class T>
struct Float;

template <>
struct Float<float> {
    using Bits = uint32_t;
    static constexpr int mantissa = 23;
    static constexpr Bits bias = 127;
    static constexpr Bits sign = 0x80000000;
    static constexpr Bits half_root = 0x3f3504f3;  // 1/√2
    static constexpr float lift = 0x1p40f, drop = 0x1p-40f, smallest_normal = 0x1p-126f, largest = 0x1.fffffep127f;
    static constexpr Bits lift_exponent = 40;
    static constexpr float exp_limit = 115.6f;  // from here on 2^n is 0, and exp with it; no weight below 2^16 shows it
    static constexpr float log2_e = 0x1.715476p+0f;
    static constexpr float ln2_high = 0x1.63p-1f;  // 9 bits: its product with an exponent is exact
    static constexpr float ln2_low = -0x1.bd0106p-13f;
    static constexpr float integer = 0x1p23f, rounder = 0x1.8p23f;  // from here on floats are integers
    static constexpr float tiny_product = 1e-12f;
    static constexpr float raise = 0x1p40f;
};

template <>
struct Float<double> {
    using Bits = uint64_t;
    static constexpr int mantissa = 52;
    static constexpr Bits bias = 1023;
    static constexpr Bits sign = 0x8000000000000000;
    static constexpr Bits half_root = 0x3fe6a09e667f3bcd;
    static constexpr double lift = 0x1p64, drop = 0x1p-64, smallest_normal = 0x1p-1022, largest = 0x1.fffffffffffffp1023;
    static constexpr Bits lift_exponent = 64;
    static constexpr double exp_limit = 753.4;
    static constexpr double log2_e = 0x1.71547652b82fep+0;
    static constexpr double ln2_high = 0x1.62e42feep-1;  // 32 bits
    static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double integer = 0x1p52, rounder = 0x1.8p52;
    static constexpr double tiny_product = 1e-12;
    static constexpr double raise = 0x1p100;
};

template <class To, class From>
BINXENT_INLINE To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, value);
}

BINXENT_INLINE float absolute(float x) { return __builtin_fabsf(x); }
BINXENT_INLINE double absolute(double x) { return __builtin_fabs(x); }

// Looks at the sign bit, so that −0 is negative. At 0 both halves of the definition agree.
template <class T>
BINXENT_INLINE bool is_negative(T x) {
    return (bits_as<typename Float<T>::Bits>(x) & Float<T>::sign) != 0;
}

// Returns `value`, negated where x is negative.
template <class T>
BINXENT_INLINE T with_sign_of(T x, T value) {
    using Bits = typename Float<T>::Bits;
    return bits_as<T>(bits_as<Bits>(value) ^ (bits_as<Bits>(x) & Float<T>::sign));
}

// Recursion of the template takes the place of a loop, since gcc vectorises no loop that still holds another.
template <int K = 0, class T, int N>
BINXENT_INLINE T polynomial(T x, const T (&c)[N], T scale = 1) {
    if constexpr (K == N - 1)
        return c[K] * scale;
    else
        return fma(polynomial<K + 1>(x, c, scale), x, c[K] * scale);
}

// The coefficients of the two branches, p·y·w for a positive and (1 − y)·w for a negative, and what the latter lost when
// 1 − y was rounded. Near a target's logit the gradient is a small difference, which would show that loss.
template <class T>
struct Branches {
    T positive, negative, lost;

    BINXENT_INLINE explicit Branches(T target)
        : positive(target), negative(T(1) - target), lost((T(1) - negative) - target) {}

    BINXENT_INLINE void multiply_negative(T weight) {
        negative = negative * weight;
        lost = lost * weight;
    }

    BINXENT_INLINE void multiply(T weight) {
        positive = positive * weight;
        negative = negative * weight;
        lost = lost * weight;
    }
};

// Label smoothing (Szegedy et al. 2016): y becomes y·(1 − ε) + ε/2, and 1 − y becomes (1 − y)·(1 − ε) + ε/2. Each is
// smoothed by itself, since 1 − (y·(1 − ε) + ε/2) would lose the digits of a small epsilon. Both are then multiplied by the
// shares of their classes, alpha and 1 − alpha.
template <class T>
struct Smoothing {
    T share, half, other_share, other_half;

    Smoothing(double epsilon, double alpha, double rest)
        : share(T((1 - epsilon) * alpha)),
          half(T(epsilon / 2 * alpha)),
          other_share(T((1 - epsilon) * rest)),
          other_half(T(epsilon / 2 * rest)) {}

    BINXENT_INLINE void smooth(Branches<T>& branches) const {
        branches.positive = fma(branches.positive, share, half);
        branches.negative = fma(branches.negative, other_share, other_half);
        branches.lost = branches.lost * other_share;
    }
};

// exp(−(size + lost)) = 2^n·(1 + q), for a size of at most exp_limit. It stays in these two parts, so that a sum or a product
// with it is rounded once. The power of two is lifted so far that it is never subnormal. Otherwise a loss or a gradient that
// is subnormal, or that a factor brings back from there, would lose digits.
template <class T, bool is_lifted = true>
struct Exponential {
    static constexpr T drop = is_lifted ? Float<T>::drop : 1;
    T power;  // 2^n / drop
    T q;

    // `lost` is what the size lost when it was rounded; without it, the size is exact.
    template <class... Lost>
    BINXENT_INLINE explicit Exponential(T size, Lost... lost) {
        using F = Float<T>;
        // Adding the rounder leaves the exponent n, with its bias, in the low bits. At the limit they are 0.
        const T rounder = F::rounder + T(F::bias + (is_lifted ? F::lift_exponent : 0));
        const T rounded = fma(size, -F::log2_e, rounder);
        const T n = rounded - rounder;
        const T r = -fma(n, F::ln2_low, (fma(n, F::ln2_high, size) + ... + lost));
        power = bits_as<T>(bits_as<typename F::Bits>(rounded) << F::mantissa);
        q = fma(r * r, polynomial(r, Coefficients<T>::exp), r);
    }

    BINXENT_INLINE T lifted() const { return fma(power, q, power); }
};

// What both branches of the loss share, for a logit x: e = exp(−|x|).
template <class T>
struct Logit : Exponential<T> {
    T size;  // |x|

    BINXENT_INLINE explicit Logit(T x) : Exponential<T>(finite(absolute(x))), size(absolute(x)) {}

    // NaN stays NaN.
    BINXENT_INLINE static T finite(T size) { return size > Float<T>::exp_limit ? Float<T>::exp_limit : size; }
};

// loss = leading·|x| + (leading + trailing)·log1p(e), since softplus(±x) = max(±x, 0) + log1p(e). `leading` is the
// coefficient of the branch that grows with |x| (1 − y for x ≥ 0, p·y for x < 0), `trailing` that of the other. A leading
// coefficient of 0 hides an infinite |x|. A NaN comes through in log1p(e).
//
// log1p(e) = ¾e + e·P(e), where P falls from ¼ at e = 0 to −0.06 at e = 1. So the last operation adds most of the value, and
// what was rounded before it is small.
//
// Only a total above 1 needs the lifted e, and only such a total can be multiplied by `drop` without losing its own digits.
template <class T>
BINXENT_INLINE T logit_loss(const Logit<T>& logit, T leading, T total) {
    const T growth = leading != 0 ? logit.size : T(0);
    const T lifted = logit.lifted(), e = lifted * Float<T>::drop;
    const bool large = absolute(total) > 1;
    const T scale = large ? total * Float<T>::drop : total, power = large ? lifted : e;
    const T rest = polynomial(e, Coefficients<T>::log1p);
    return fma(power, scale * T(0.75), fma(leading, growth, scale * rest * power));
}

// Returns numerator / (1 + e), for an e of 0 to 1.
template <class T>
BINXENT_INLINE T over_one_plus(T e, T numerator) {
    const T denominator = T(1) + e;
#if defined(BINXENT_FMA)
    // One step of long division takes back what the rounding of 1 + e and of the quotient lost, and makes 3 ulp 2. The
    // quotient is at least half the numerator, so that their difference is exact.
    const T inverse = T(1) / denominator;
    const T quotient = numerator * inverse;
    const T remainder = fma(-quotient, e, numerator - quotient);
    return fma(remainder, inverse, quotient);
#else
    return numerator / denominator;
#endif
}

// Returns d loss / dx · factor = ±(leading − trailing·e)·factor / (1 + e), negative where x < 0. σ(|x|) = 1/(1+e) and
// σ(−|x|) = e/(1+e) are not made from each other, which would lose the tails. The factor is applied before the one rounding.
// `lost_leading` is what the leading coefficient lost when it was rounded.
template <class T>
BINXENT_INLINE T logit_gradient(const Logit<T>& logit, T x, T leading, T trailing, T factor, T lost_leading) {
    const T scale = trailing * (factor * Float<T>::drop) * logit.power;
    const T numerator = fma(-scale, logit.q, fma(leading, factor, fma(lost_leading, factor, -scale)));
    return with_sign_of(x, over_one_plus(logit.lifted() * Float<T>::drop, numerator));
}

// The loss of a logit, and its gradient, with these coefficients.
template <class T>
struct LogitElement {
    T x, leading, trailing, lost;
    Logit<T> logit;

    BINXENT_INLINE LogitElement(T x, const Branches<T>& of)
        : x(x),
          leading(is_negative(x) ? of.positive : of.negative),
          trailing(is_negative(x) ? of.negative : of.positive),
          lost(of.lost),
          logit(x) {}

    // Without weights the coefficients add up to 1.
    template <bool weighted>
    BINXENT_INLINE T loss() const {
        return logit_loss(logit, leading, weighted ? leading + trailing : T(1));
    }

    BINXENT_INLINE T gradient(T factor) const {
        const T lost_leading = is_negative(x) || lost != lost ? T(0) : lost;  // NaN for an infinite target or weight
        return logit_gradient(logit, x, leading, trailing, factor, lost_leading);
    }
};

// What LogitElement gives for a target of 0, with the same bits in fewer operations. The factor is finite and not 0.
template <class T>
struct NegativeElement {
    T x, e;
    Logit<T> logit;

    BINXENT_INLINE explicit NegativeElement(T x) : x(x), logit(x) { e = logit.lifted() * Float<T>::drop; }

    BINXENT_INLINE T loss() const {
        const T growth = is_negative(x) ? T(0) : logit.size;
        return fma(e, T(0.75), growth + polynomial(e, Coefficients<T>::log1p) * e);
    }

    BINXENT_INLINE T gradient(T factor) const {
        const T scale = factor * Float<T>::drop * logit.power;
        // A difference from 0, so that a scale that underflows gives the zero that LogitElement gives.
        const T numerator = is_negative(x) ? fma(-scale, logit.q, T(0) - scale) : factor;
        return with_sign_of(x, over_one_plus(e, numerator));
    }
};

// Returns σ(x) = 1/(1+e), or e/(1+e) for x < 0.
template <class T>
BINXENT_INLINE T sigmoid(const Logit<T>& logit, T x) {
    const T e = logit.lifted() * Float<T>::drop;
    return (x < 0 ? e : T(1)) / (T(1) + e);
}

// Returns −log((1 + f)·2^(biased − bias − offset)), for 1 + f in [1/√2, √2). Whoever asks also gets what the last rounding of it
// lost, since its product of k and ln2_high is exact.
template <class T, class... Lost>
BINXENT_INLINE T minus_log(T f, typename Float<T>::Bits biased, T offset, Lost&... lost) {
    using F = Float<T>;
    const T k = bits_as<T>(bits_as<typename F::Bits>(F::integer) | biased) - (F::integer + T(F::bias)) - offset;
    const T rest = fma(f * f, polynomial(f, Coefficients<T>::log), fma(k, F::ln2_low, f));
    const T value = -fma(k, F::ln2_high, rest);
    ((lost = -(fma(k, F::ln2_high, value) + rest)), ...);
    return value;
}

constexpr double log_clamp = 100;  // the frameworks clamp both logarithms at −100

// Returns −log q, at most 100.
template <class T, class... Lost>
BINXENT_INLINE T clamped_minus_log(T q, Lost&... lost) {
    using F = Float<T>;
    using Bits = typename F::Bits;
    const bool subnormal = q < F::smallest_normal;
    const T normal = subnormal ? q * F::lift : q;
    const Bits shifted = bits_as<Bits>(normal) - F::half_root + (F::bias << F::mantissa);
    const T m = bits_as<T>((shifted & ((Bits(1) << F::mantissa) - 1)) + F::half_root);
    const T value = minus_log(m - T(1), shifted >> F::mantissa, subnormal ? T(F::lift_exponent) : T(0), lost...);
    return q == 0 || value > T(log_clamp) ? T(log_clamp) : value;
}

// Returns −log(1 − q), at most 100. 1 − q itself may be rounded, but f = 2^−k·(1 − q) − 1 = (2^−k − 1) − 2^−k·q never is.
template <class T, class... Lost>
BINXENT_INLINE T clamped_minus_log1m(T q, Lost&... lost) {
    using F = Float<T>;
    using Bits = typename F::Bits;
    const T rest = T(1) - q;
    const Bits biased = (bits_as<Bits>(rest) - F::half_root + (F::bias << F::mantissa)) >> F::mantissa;
    const T scale = bits_as<T>((2 * F::bias - biased) << F::mantissa);  // 2^−k
    const T value = minus_log(fma(-scale, q, scale - T(1)), biased, T(0), lost...);
    return rest == 0 || value > T(log_clamp) ? T(log_clamp) : value;
}

template <class T>
BINXENT_INLINE T probability_loss(T q, T positive, T negative) {
    return fma(positive, clamped_minus_log(q), negative * clamped_minus_log1m(q));
}

// Returns d loss / dq · factor. The denominator is clamped as the frameworks do it, which bounds the gradient by 1e12. It
// turns subnormal probabilities into normal gradients, so both parts of the fraction are raised: unraised, such a
// probability would have too few digits.
template <class T>
BINXENT_INLINE T probability_gradient(T q, T positive, T negative, T factor) {
    using F = Float<T>;
    const T raised = q * F::raise, other = T(1) - q;
    const T product = raised * other;
    const T denominator = product < F::tiny_product * F::raise ? F::tiny_product * F::raise : product;
    // Without a fused multiply-add both products are rounded alike, so that the gradient is 0 where q = y.
    return (negative * raised - positive * (other * F::raise)) * factor / denominator;
}

// A gradient of probabilities is at most 1e12. float16 cannot hold that, so there the gradient saturates.
template <class T>
BINXENT_INLINE T saturated(T v) {
    const T low = v < T(-65504) ? T(-65504) : v;
    return low > T(65504) ? T(65504) : low;
}

}  // namespace binxent::BINXENT_ISA
