// All that is computed of one element with the focal power (Lin et al. 2017): formula.py, vectorised as in math.h.
//
// The focal power is t^γ = exp(−γ·(−log t)), where t is the probability that the model gives the wrong class. Its relative
// error is the absolute error of γ·(−log t). If that were one rounded number, it would be off by many ulp. So γ, −log t and
// their product have two parts each.
#pragma once

#include "math.h"

namespace binxent::BINXENT_ISA {

// Returns what the product of a and b lost when it was rounded.
BINXENT_INLINE double lost(double a, double b, double product) { return fma(a, b, -product); }
BINXENT_INLINE float lost(float a, float b, float product) {
#if defined(BINXENT_FMA)
    return fma(a, b, -product);
#else
    return float(double(a) * double(b) - double(product));
#endif
}

// A number in two parts: it is high + low.
template <class T>
struct Two {
    T high, low;

    explicit Two(double number) : high(T(number)), low(T(number - double(high))) {}
};

template <class T>
struct Gamma {
    Two<T> gamma, next;  // γ and γ + 1
    T far, clamp;        // an |x| from here on, and a −log t, have a power of 0

    explicit Gamma(double gamma) : gamma(gamma), next(gamma + 1) {
        const double size = double(Float<T>::exp_limit) / gamma;
        far = size < double(Float<T>::largest) ? T(size) : Float<T>::largest;
        clamp = gamma == 0 ? Float<T>::largest : size < log_clamp ? T(size) : T(log_clamp);
    }
};

// Returns exp(−γ·(high + low)).
template <class T, bool is_lifted = true, class... Low>
BINXENT_INLINE Exponential<T, is_lifted> focal_power(const Two<T>& gamma, T high, Low... low) {
    const T size = gamma.high * high;
    T rest = fma(gamma.low, high, lost(gamma.high, high, size));
    if constexpr (sizeof...(low) > 0) rest = fma(gamma.high, low..., rest);
    return Exponential<T, is_lifted>(size, rest);
}

// The power comes last in a product. Where it is tiny, what it multiplies still has all its digits; and its power of two is
// exact even where it is subnormal.
template <class T, bool is_lifted>
BINXENT_INLINE T times(T factor, const Exponential<T, is_lifted>& power) {
    const T scaled = factor * (is_lifted ? power.power * power.drop : power.power);
    return fma(scaled, power.q, scaled);
}

// The same, lifted: where the power is subnormal, a product that is not keeps its digits. The lift may overflow for a factor as
// large as a logit may be. For a probability it does not: an element is extreme before that.
template <class T>
BINXENT_INLINE T lifted_times(T factor, const Exponential<T>& power) {
    const T scaled = factor * power.power;
    return fma(scaled, power.q, scaled);
}

// With l = log1p(e), softplus(±x) = max(±x, 0) + l and σ(±x) = exp(−softplus(∓x)). So all has the factor exp(−γ·l):
//
//     loss   = exp(−γ·l) · [ leading·(|x| + l) + trailing·exp(−γ·|x|)·l ]
//     d/dx   = ±exp(−(γ+1)·l) · [ leading·(1 + γ·e·(|x| + l)) − trailing·exp(−γ·|x|)·(e + γ·l) ]
//
// where exp(−γ·l) = exp(−(γ+1)·l)·(1 + e). There is no difference of two rounded numbers but that of the two branches.
template <class T>
struct FocalLogit {
    T x, leading, trailing, gamma;
    Logit<T> logit;
    T e, rest, log1p, lost;               // l = log1p + lost
    Exponential<T, false> shared;         // exp(−(γ+1)·l)
    Exponential<T> of_trailing;           // exp(−γ·|x|)

    BINXENT_INLINE FocalLogit(T x, const Branches<T>& of, const Gamma<T>& gamma, const Gamma<T>&)
        : x(x),
          leading(is_negative(x) ? of.positive : of.negative),
          trailing(is_negative(x) ? of.negative : of.positive),
          gamma(gamma.gamma.high),
          logit(x),
          e(logit.lifted() * Float<T>::drop),
          rest(e * polynomial(e, Coefficients<T>::log1p)),
          log1p(fma(e, T(0.75), rest)),
          lost(fma(e, T(0.75), -log1p) + rest),
          shared(focal_power<T, false>(gamma.next, log1p, lost)),
          of_trailing(focal_power(gamma.gamma, logit.size > gamma.far ? gamma.far : logit.size)) {}

    BINXENT_INLINE T loss() const {
        const T growth = leading != 0 ? logit.size : T(0);  // a coefficient of 0 hides an infinite |x|
        const T sum = fma(leading, growth + log1p, times(trailing * log1p, of_trailing));
        const T loss = times(fma(sum, e, sum), shared);
        return loss == loss ? loss : sum;  // an infinite sum times a part that is 0
    }

    BINXENT_INLINE T gradient(T factor) const {
        const T rising = fma(gamma * e, logit.finite(logit.size) + log1p, T(1));
        const T falling = fma(gamma, log1p, fma(gamma, lost, e));
        const T difference = fma(leading * factor, rising, -times(trailing * factor * falling, of_trailing));
        return with_sign_of(x, times(difference, shared));
    }
};

// The loss is (1 − q)^γ·(−log q) for a positive, and q^γ·(−log(1−q)) for a negative. The gradient's denominator is clamped, and
// both parts of its fraction are raised, as without the power.
template <class T>
struct FocalProbability {
    T q, positive, negative, gamma, gamma_negative;
    T lost, lost1m;  // of the logarithms
    T minus_log, minus_log1m;
    Exponential<T> of_positive, of_negative;  // (1 − q)^γ and q^γ, each with the γ of its branch

    BINXENT_INLINE FocalProbability(T q, const Branches<T>& of, const Gamma<T>& gamma, const Gamma<T>& of_negatives)
        : q(q),
          positive(of.positive),
          negative(of.negative),
          gamma(gamma.gamma.high),
          gamma_negative(of_negatives.gamma.high),
          minus_log(clamped_minus_log(q, lost)),
          minus_log1m(clamped_minus_log1m(q, lost1m)),
          of_positive(focal_power(gamma.gamma, minus_log1m, lost1m)),
          of_negative(focal_power(of_negatives.gamma, minus_log, lost)) {
        // A logarithm that is clamped has a power of 0.
        if (!(minus_log1m < gamma.clamp)) of_positive.power = 0;
        if (!(minus_log < of_negatives.clamp)) of_negative.power = 0;
    }

    BINXENT_INLINE T loss() const {
        return (lifted_times(positive * minus_log, of_positive) + lifted_times(negative * minus_log1m, of_negative)) *
               Float<T>::drop;
    }

    BINXENT_INLINE T gradient(T factor) const {
        using F = Float<T>;
        const T raised = q * F::raise, other = T(1) - q;
        const T product = raised * other;
        const T denominator = product < F::tiny_product * F::raise ? F::tiny_product * F::raise : product;
        const T rising = negative * factor * fma(gamma_negative * F::raise * other, minus_log1m, raised);
        const T falling = positive * (factor * F::raise) * fma(gamma * q, minus_log, other);
        return (lifted_times(rising, of_negative) - lifted_times(falling, of_positive)) / denominator * F::drop;
    }
};

}  // namespace binxent::BINXENT_ISA
