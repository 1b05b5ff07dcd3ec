// The second derivative of a logit's loss with the options of focal.py: focal_curvature.py, vectorised as in family.h.
//
// All of it is computed in double, as with the focal power alone. `mean` is that of both branches' second derivatives, over the
// labels of which this logit is the best prediction; in `expected` it takes the place of each of them.
#pragma once

#include "family.h"

namespace binxent::BINXENT_ISA {

// With S = |x| + l, and γ of the leading branch, τ of the trailing one, the sizes of the slopes and the second derivatives are
//
//     leading    exp(−(γ+1)·l)·(1 + γ·e·S)               exp(−(γ+1)·l)·e·[ 2γ + 1 + γ·S·(γ·e − 1) ] / (1 + e)
//     trailing   exp(−τ·|x| − (τ+1)·l)·(e + τ·l)         exp(−τ·|x| − (τ+1)·l)·[ (2τ+1)·e + τ·l·(τ − e) ] / (1 + e)
//
// The mean is the sum of products of a slope and the other branch's second derivative, over the sum of the slopes. Multiplied
// out, −γ·e·S·(e + τ·l) is part of a larger product, and no term that is left is negative.
struct AsymmetricCurve : AsymmetricLogit<double> {
    using T = double;
    T size, falling;

    BINXENT_INLINE AsymmetricCurve(T x, T target, const Branches<T>& of, const Terms<T>& terms)
        : AsymmetricLogit(x, target, of, terms),
          size(logit.finite(logit.size) + log1p),
          falling(fma(T(2) * tau + T(1), e, tau * log1p * (tau - e))) {}

    BINXENT_INLINE T exact(T factor) const {
        const T rising = e * fma(gamma * size, fma(gamma, e, -T(1)), T(2) * gamma + T(1));
        return (times(leading * factor * rising, of_leading) + times(trailing * factor * falling, of_trailing)) / (T(1) + e);
    }

    BINXENT_INLINE T mean() const {
        const T grown = gamma * e * size, up = T(1) + grown, down = fma(tau, log1p, e);
        const T bends = fma(down * e, fma(gamma, grown, T(2) * gamma + T(1)), falling) +
                        grown * tau * fma(log1p, tau - e - T(1), T(2) * e);
        const T one = of_leading.lifted(), other = of_trailing.lifted() * of_trailing.drop;
        // Either power may be the larger one. Their product may underflow where the mean does not.
        const T smaller = one < other ? one : other, larger = one < other ? other : one, ratio = smaller / larger;
        const T slopes = one < other ? fma(ratio, up, down) : fma(ratio, down, up);
        return smaller * bends / ((T(1) + e) * slopes);
    }

    BINXENT_INLINE T expected(T factor) const { return (leading + trailing) * mean() * factor; }
};

// With n for the numerator of p − m and k for that of 1 − p + m, both over 1 + e, P and R those of σ(z) and σ(−z):
//
//     (n/(1+e))^γ / (1+e)² · { (e/k)·(R² + m·(R − P)·(1+e))/k + γ·(e/n)·[ 2·e/k + L·(γ·e/n − P − m·R·(1+e)/n) ] }
template <bool powered>
struct MarginCurve : MarginLogit<double, powered, false> {
    using T = double;
    using Base = MarginLogit<T, powered, false>;
    using Base::e, Base::positive, Base::negative, Base::of_positive, Base::of_negative;
    AsymmetricCurve without;
    T x, margin, gamma, gamma_negative;

    BINXENT_INLINE MarginCurve(T x, T target, const Branches<T>& of, const Terms<T>& terms)
        : Base(x, target, of, terms),
          without(x, target, of, terms),
          x(x),
          margin(terms.margin),
          gamma(terms.gamma.gamma.high),
          gamma_negative(terms.negative.gamma.high) {}

    template <Margin has>
    BINXENT_INLINE T by_power(T coefficient, T curve, const MarginBranch<T, powered, has>& branch) const {
        if constexpr (powered) return times(coefficient * curve, branch.power);
        return coefficient * curve;
    }

    BINXENT_INLINE T exact(T factor) const {
        const T denominator = T(1) + e, p = is_negative(x) ? e : T(1), rest = is_negative(x) ? T(1) : e;
        const T n = of_negative.n, safe = n <= 0 ? T(1) : n, k = fma(margin, denominator, rest);
        const T by_n = e / safe, by_k = e / k;
        T up = e, down = by_k * fma(margin * (rest - p), denominator, rest * rest) / k;
        if constexpr (powered) {
            up = fma(gamma * of_positive.inner * p, fma(gamma, p, -rest), fma(T(2) * gamma, e, e));
            const T bend = of_negative.inner * (fma(gamma_negative, by_n, -p) - margin * rest * denominator / safe);
            down = fma(gamma_negative * by_n, fma(T(2), by_k, bend), down);
        }
        const T of_negatives = by_power(negative * factor, down, of_negative);
        return (by_power(positive * factor, up, of_positive) + (n <= 0 ? T(0) : of_negatives)) / (denominator * denominator);
    }

    // The margin has no mean of its own. Below it, where the slope of a negative is 0, nothing is added.
    BINXENT_INLINE T expected(T factor) const {
        return (positive + (of_negative.n <= 0 ? T(0) : negative)) * without.mean() * factor;
    }
};

// In the order of |x|, as in PtLogit:
//
//     α_t·u^γ / (1+e)² · { (leading + trailing)·e + γ·B·[ 2·(leading − trailing·e) + C·(γ·B + (a·e² − b)/(b + a·e)) ] },
//     B = (b − a)·e/(b + a·e)
struct PtCurve : PtLogit<double> {
    using T = double;
    AsymmetricCurve of_hard;

    BINXENT_INLINE PtCurve(T x, T target, const Branches<T>& of, const Terms<T>& terms)
        : PtLogit(x, target, of, terms), of_hard(x, target, of, terms) {}

    BINXENT_INLINE T exact(T factor) const {
        const T denominator = T(1) + e, inverse = numerator > 0 ? T(1) / numerator : T(0);
        const T by = b == 0 ? -T(1) : (b - a) * e * inverse, bend = b == 0 ? e : fma(a * e, e, -b) * inverse;
        const T inner = cross_entropy(logit.finite(logit.size)) * fma(gamma, by, bend);
        const T curve = fma(leading + trailing, e, gamma * by * fma(T(2), fma(-trailing, e, leading), inner));
        return times(alpha * factor * curve / (denominator * denominator), power);
    }

    BINXENT_INLINE T expected(T factor) const { return alpha * (leading + trailing) * of_hard.mean() * factor; }
};

}  // namespace binxent::BINXENT_ISA
