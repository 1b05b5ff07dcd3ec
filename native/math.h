// The definition, vectorised: everything that is computed of one element stands here.
//
// Plain scalar functions; loss.cpp calls them in loops that the compiler turns into vector code, once for each
// instruction set. All of it is IEEE arithmetic in a fixed order, so every instruction set that has a fused
// multiply-add gives the same bits. No library function is called: exp and log1p are the polynomials of
// coefficients.h.
#pragma once

#include <cstdint>

#include "coefficients.h"

// A loop is vectorised only if all that it calls is inlined.
#define BINXENT_ALWAYS __attribute__((always_inline))
#define BINXENT_INLINE inline BINXENT_ALWAYS

namespace binxent::BINXENT_ISA {

// A library fma on a machine without the instruction costs 25 times as much: there, multiply and add.
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
    static constexpr float lift = 0x1p40f, drop = 0x1p-40f, smallest_normal = 0x1p-126f;
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
    static constexpr double lift = 0x1p64, drop = 0x1p-64, smallest_normal = 0x1p-1022;
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

// By the sign bit: −0 is negative. Both halves of the definition agree at 0.
template <class T>
BINXENT_INLINE bool is_negative(T x) {
    return (bits_as<typename Float<T>::Bits>(x) & Float<T>::sign) != 0;
}

// `value`, negated where x is negative.
template <class T>
BINXENT_INLINE T with_sign_of(T x, T value) {
    using Bits = typename Float<T>::Bits;
    return bits_as<T>(bits_as<Bits>(value) ^ (bits_as<Bits>(x) & Float<T>::sign));
}

// Unrolled by the template: gcc vectorises no loop that still holds another.
template <int K = 0, class T, int N>
BINXENT_INLINE T polynomial(T x, const T (&c)[N], T scale = 1) {
    if constexpr (K == N - 1)
        return c[K] * scale;
    else
        return fma(polynomial<K + 1>(x, c, scale), x, c[K] * scale);
}

// What both branches of the loss share, for a logit x: e = exp(−|x|) = 2^n·(1 + q), kept in these two parts, so that
// a sum or a product with e is rounded once. The power of two is lifted until it is never subnormal: a loss or a
// gradient that is subnormal, or that a factor brings back from there, then keeps every digit.
template <class T>
struct Logit {
    T size;   // |x|
    T power;  // lift·2^n
    T q;

    BINXENT_INLINE explicit Logit(T x) : size(absolute(x)) {
        using F = Float<T>;
        const T a = size > F::exp_limit ? F::exp_limit : size;  // NaN stays NaN
        // Adding the rounder leaves the exponent n, with its bias, in the low bits: 0 at the limit.
        const T rounder = F::rounder + T(F::bias + F::lift_exponent);
        const T rounded = fma(a, -F::log2_e, rounder);
        const T n = rounded - rounder;
        const T r = -fma(n, F::ln2_low, fma(n, F::ln2_high, a));
        power = bits_as<T>(bits_as<typename F::Bits>(rounded) << F::mantissa);
        q = fma(r * r, polynomial(r, Coefficients<T>::exp), r);
    }

    BINXENT_INLINE T lifted_exp() const { return fma(power, q, power); }
};

// loss = leading·|x| + (leading + trailing)·log1p(e): softplus(±x) = max(±x, 0) + log1p(e). `leading` is the
// coefficient of the branch that grows with |x| (1 − y for x ≥ 0, p·y for x < 0), `trailing` that of the other.
// A leading coefficient of 0 hides an infinite |x|; log1p(e) keeps a NaN.
//
// log1p(e) = ¾e + e·P(e), where P falls from ¼ at e = 0 to −0.06 at e = 1: most of the value is added by the last
// operation alone, and what is rounded before it is small.
//
// Only a total above 1 needs the lifted e, and only such a total can be dropped without losing digits of its own.
template <class T>
BINXENT_INLINE T logit_loss(const Logit<T>& logit, T leading, T total) {
    const T growth = leading != 0 ? logit.size : T(0);
    const T lifted = logit.lifted_exp(), e = lifted * Float<T>::drop;
    const bool large = absolute(total) > 1;
    const T scale = large ? total * Float<T>::drop : total, power = large ? lifted : e;
    const T rest = polynomial(e, Coefficients<T>::log1p);
    return fma(power, scale * T(0.75), fma(leading, growth, scale * rest * power));
}

// d loss / dx · factor = ±(leading − trailing·e)·factor / (1 + e), negative where x < 0: σ(|x|) = 1/(1+e) and
// σ(−|x|) = e/(1+e), neither made from the other. The factor is applied before the one rounding. `lost_leading` is what
// the rounding of 1 − y lost, where that is the leading coefficient.
template <class T>
BINXENT_INLINE T logit_gradient(const Logit<T>& logit, T x, T leading, T trailing, T factor, T lost_leading) {
    const T scale = trailing * (factor * Float<T>::drop) * logit.power;
    const T numerator = fma(-scale, logit.q, fma(leading, factor, fma(lost_leading, factor, -scale)));
    const T e = logit.lifted_exp() * Float<T>::drop;
    const T denominator = T(1) + e;
#if defined(BINXENT_FMA)
    // One step of long division takes back what rounding 1 + e and the quotient lost: 2 ulp instead of 3. The quotient is
    // at least half the numerator, so that their difference is exact.
    const T inverse = T(1) / denominator;
    const T quotient = numerator * inverse;
    const T remainder = fma(-quotient, e, numerator - quotient);
    const T gradient = fma(remainder, inverse, quotient);
#else
    const T gradient = numerator / denominator;
#endif
    return with_sign_of(x, gradient);
}

// σ(x) = 1/(1+e), or e/(1+e) for x < 0.
template <class T>
BINXENT_INLINE T sigmoid(const Logit<T>& logit, T x) {
    const T e = logit.lifted_exp() * Float<T>::drop;
    return (x < 0 ? e : T(1)) / (T(1) + e);
}

// −log((1 + f)·2^(biased − bias − offset)), 1 + f in [1/√2, √2).
template <class T>
BINXENT_INLINE T minus_log(T f, typename Float<T>::Bits biased, T offset) {
    using F = Float<T>;
    const T k = bits_as<T>(bits_as<typename F::Bits>(F::integer) | biased) - (F::integer + T(F::bias)) - offset;
    const T rest = fma(f * f, polynomial(f, Coefficients<T>::log), fma(k, F::ln2_low, f));
    return -fma(k, F::ln2_high, rest);
}

constexpr double log_clamp = 100;  // the frameworks clamp both logarithms at −100

// −log q, at most 100.
template <class T>
BINXENT_INLINE T clamped_minus_log(T q) {
    using F = Float<T>;
    using Bits = typename F::Bits;
    const bool subnormal = q < F::smallest_normal;
    const T normal = subnormal ? q * F::lift : q;
    const Bits shifted = bits_as<Bits>(normal) - F::half_root + (F::bias << F::mantissa);
    const T m = bits_as<T>((shifted & ((Bits(1) << F::mantissa) - 1)) + F::half_root);
    const T value = minus_log<T>(m - T(1), shifted >> F::mantissa, subnormal ? T(F::lift_exponent) : T(0));
    return q == 0 || value > T(log_clamp) ? T(log_clamp) : value;
}

// −log(1 − q), at most 100. 1 − q itself may round; f = 2^−k·(1 − q) − 1 = (2^−k − 1) − 2^−k·q never does.
template <class T>
BINXENT_INLINE T clamped_minus_log1m(T q) {
    using F = Float<T>;
    using Bits = typename F::Bits;
    const T rest = T(1) - q;
    const Bits biased = (bits_as<Bits>(rest) - F::half_root + (F::bias << F::mantissa)) >> F::mantissa;
    const T scale = bits_as<T>((2 * F::bias - biased) << F::mantissa);  // 2^−k
    const T value = minus_log<T>(fma(-scale, q, scale - T(1)), biased, T(0));
    return rest == 0 || value > T(log_clamp) ? T(log_clamp) : value;
}

// d loss / dq · factor. The denominator is clamped as the frameworks do, which bounds the gradient by 1e12, and turns
// subnormal probabilities into normal gradients: both parts of the fraction are raised, so that those keep their digits.
template <class T>
BINXENT_INLINE T probability_gradient(T q, T positive, T negative, T factor) {
    using F = Float<T>;
    const T raised = q * F::raise, other = T(1) - q;
    const T product = raised * other;
    const T denominator = product < F::tiny_product * F::raise ? F::tiny_product * F::raise : product;
    // No fused multiply-add: both products are rounded alike, so that the gradient is 0 where q = y.
    return (negative * raised - positive * (other * F::raise)) * factor / denominator;
}

// The focal power, of what the model gives the wrong answer: (1 − p_t)^γ = exp(−γ·softplus(±x)), in log space, where
// nothing overflows. For a positive, loss = σ(−x)^γ·softplus(−x), and slope = d loss / dx; a negative is that of −x, with
// −slope.
template <class T>
struct Focal {
    T loss, slope;
};

template <class T>
BINXENT_INLINE T exp_of_minus(T size) {
    return Logit<T>(size).lifted_exp() * Float<T>::drop;
}

template <class T>
BINXENT_INLINE Focal<T> focal_logit(T x, T gamma) {
    const Logit<T> logit(x);
    const T on_left = x < 0 ? T(1) : T(0), on_right = T(1) - on_left;
    const T softplus = logit_loss(logit, on_left, T(1)), opposite = logit_loss(logit, on_right, T(1));
    const T e = logit.lifted_exp() * Float<T>::drop;
    const T larger = T(1) / (T(1) + e), smaller = e / (T(1) + e);  // σ(|x|), σ(−|x|)
    const T sigma = x < 0 ? smaller : larger, other = x < 0 ? larger : smaller;
    const T power = exp_of_minus(gamma * opposite);
    const T finite = softplus > Float<T>::exp_limit ? Float<T>::exp_limit : softplus;  // there σ(x) is 0
    return {power * softplus, -power * fma(gamma * sigma, finite, other)};
}

// A coefficient of 0 hides an infinite term, but no NaN.
template <class T>
BINXENT_INLINE T weighted(T coefficient, T term) {
    return coefficient == 0 && term - term != 0 && term == term ? T(0) : coefficient * term;
}

// The same of a probability q: (1 − q)^γ·(−log q) for a positive, and q^γ·(−log(1−q)).
template <class T>
struct FocalProbability {
    T minus_log, minus_log1m, power, other_power, gamma;
    T loss, other_loss;

    BINXENT_INLINE FocalProbability(T q, T gamma)
        : minus_log(clamped_minus_log(q)),
          minus_log1m(clamped_minus_log1m(q)),
          power(minus_log1m < T(log_clamp) ? exp_of_minus(gamma * minus_log1m) : T(0)),
          other_power(minus_log < T(log_clamp) ? exp_of_minus(gamma * minus_log) : T(0)),
          gamma(gamma),
          loss(power * minus_log),
          other_loss(other_power * minus_log1m) {}

    // d loss / dq · factor, with the denominator clamped as without the power.
    BINXENT_INLINE T gradient(T q, T positive, T negative, T factor) const {
        const T product = q * (T(1) - q);
        const T denominator = product < Float<T>::tiny_product ? Float<T>::tiny_product : product;
        const T rising = negative * other_power * fma(gamma * (T(1) - q), minus_log1m, q);
        const T falling = positive * power * fma(gamma * q, minus_log, T(1) - q);
        return (rising - falling) * factor / denominator;
    }
};

}  // namespace binxent::BINXENT_ISA
