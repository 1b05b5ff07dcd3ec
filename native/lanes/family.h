// All that is computed of one element with the options of focal.py: two powers, a margin, and the power of p_t.
//
// The names are those of math.h and focal.h. An element gives loss() and gradient(factor). What a coefficient of exactly 0
// multiplies is finite, so that it adds 0: a hard target has the bits of its own branch, whatever the other one's options are.
#pragma once

#include "focal.h"
#include "terms.h"

namespace binxent::BINXENT_ISA {

template <class T>
BINXENT_INLINE Two<T> either(bool first, Two<T> one, const Two<T>& other) {
    one.high = first ? one.high : other.high;
    one.low = first ? one.low : other.low;
    return one;
}

// Returns exp(−γ·(one + other + low)): the sum of both may be rounded, and what it loses is kept.
template <class T>
BINXENT_INLINE Exponential<T> power_of_sum(const Two<T>& gamma, T one, const Two<T>& next, T other, T low) {
    const T size = gamma.high * one, more = next.high * other;
    const T sum = size + more, part = sum - size;
    const T rest = fma(gamma.low, one, lost(gamma.high, one, size)) +
                   fma(next.high, low, fma(next.low, other, lost(next.high, other, more))) +
                   ((size - (sum - part)) + (more - part));
    return Exponential<T>(sum > Float<T>::exp_limit ? Float<T>::exp_limit : sum, rest);
}

// Of a logit, with a power for each branch. With l = log1p(e), and γ of the leading branch, τ of the trailing one:
//
//     loss   = leading·exp(−γ·l)·(|x| + l) + trailing·exp(−τ·(|x| + l))·l
//     d/dx   = ±[ leading·exp(−(γ+1)·l)·(1 + γ·e·(|x| + l)) − trailing·exp(−τ·|x| − (τ+1)·l)·(e + τ·l) ]
template <class T>
struct AsymmetricLogit {
    T x, leading, trailing, gamma, tau;
    Logit<T> logit;
    T e, rest, log1p, lost;  // l = log1p + lost
    Exponential<T, false> of_leading;
    Exponential<T> of_trailing;

    BINXENT_INLINE AsymmetricLogit(T x, T, const Branches<T>& of, const Terms<T>& terms)
        : x(x),
          leading(is_negative(x) ? of.positive : of.negative),
          trailing(is_negative(x) ? of.negative : of.positive),
          gamma(is_negative(x) ? terms.gamma.gamma.high : terms.negative.gamma.high),
          tau(is_negative(x) ? terms.negative.gamma.high : terms.gamma.gamma.high),
          logit(x),
          e(logit.lifted() * Float<T>::drop),
          rest(e * polynomial(e, Coefficients<T>::log1p)),
          log1p(fma(e, T(0.75), rest)),
          lost(fma(e, T(0.75), -log1p) + rest),
          of_leading(focal_power<T, false>(either(is_negative(x), terms.gamma.next, terms.negative.next), log1p, lost)),
          of_trailing(power_of_sum(either(is_negative(x), terms.negative.gamma, terms.gamma.gamma),
                                   within(logit.size, is_negative(x) ? terms.negative.far : terms.gamma.far),
                                   either(is_negative(x), terms.negative.next, terms.gamma.next), log1p, lost)) {}

    BINXENT_INLINE static T within(T size, T far) { return size > far ? far : size; }

    BINXENT_INLINE T loss() const {
        const T growth = leading != 0 ? logit.size : T(0);  // a coefficient of 0 hides an infinite |x|
        const T one = leading * (growth + log1p), other = trailing * log1p;
        const T loss = times(fma(one, e, one), of_leading) + times(fma(other, e, other), of_trailing);
        return loss == loss ? loss : one + other;  // an infinite sum times a part that is 0
    }

    BINXENT_INLINE T gradient(T factor) const {
        const T rising = fma(gamma * e, logit.finite(logit.size) + log1p, T(1));
        const T falling = fma(tau, log1p, fma(tau, lost, e));
        return with_sign_of(
            x, times(leading * factor * rising, of_leading) - times(trailing * factor * falling, of_trailing));
    }
};

// Returns −log u, for a u in (0, 1]. Where it is above 1/√2, `less` is 1 − u, which u may have lost.
template <class T>
BINXENT_INLINE T minus_log_near(T u, T less, T& lost) {
    using F = Float<T>;
    using Bits = typename F::Bits;
    const Bits shifted = bits_as<Bits>(u) - F::half_root + (F::bias << F::mantissa);
    const Bits biased = shifted >> F::mantissa;
    const T m = bits_as<T>((shifted & ((Bits(1) << F::mantissa) - 1)) + F::half_root);
    return minus_log(biased == F::bias ? -less : m - T(1), biased, T(0), lost);
}

// The branch of a negative with the logit z, for p = σ(z) less the margin; that of a positive is the one of −x, without margin.
// With n for the numerator of p − m over the denominator 1 + e, and k for that of 1 − p + m:
//
//     loss   = (n/(1+e))^γ·L,   L = −log(k/(1+e))
//     d/dz   = (n/(1+e))^γ·[ e/k + γ·L·e/n ] / (1 + e)
//
// Both are 0 unless n > 0. Without margin one of the ratios is 1, and L and −log p are log1p(e), plus |z| or not. All choices
// are made by numbers: gcc vectorises no loop that keeps a truth for later.
enum class Margin { none, some, either };  // of a branch; `either` is decided element by element

template <class T, bool powered, Margin has>
struct MarginBranch {
    T n, inner, outer;  // outer is the bracket of d/dz over (1 + e), lifted as e is, which may be subnormal
    Exponential<T> power;

    BINXENT_INLINE MarginBranch(const Logit<T>& logit, T z, T e, T margin, const Two<T>& gamma, T far) : power(T(0)) {
        const auto unless_none = [margin](T none, T value) BINXENT_ALWAYS {
            return has == Margin::none ? none : has == Margin::some ? value : margin == 0 ? none : value;
        };
        const T denominator = T(1) + e, size = logit.finite(logit.size);
        const T of_p = is_negative(z) ? e : T(1), of_rest = is_negative(z) ? T(1) : e;
        n = unless_none(T(1), fma(-margin, denominator, of_p));
        const T safe = n <= 0 ? T(1) : n, k = unless_none(T(1), fma(margin, denominator, of_rest));
        const T inverse = T(1) / denominator;
        const T p = safe * inverse, less = unless_none(e * inverse, p);
        T lost, lost_of_p;
        const T base = minus_log_near(k * inverse, less, lost);
        const T up = is_negative(z) ? T(0) : logit.size;
        // base is taken from bits, which would hide a NaN.
        inner = unless_none(up, T(0)) + base + (e - e);
        const T lifted = logit.lifted(), one = T(1) / Float<T>::drop;
        const T lifted_p = is_negative(z) ? lifted : one, by_rest = unless_none(lifted_p, lifted / k);
        if constexpr (powered) {
            const T of_margin = minus_log_near(p, T(1) - p, lost_of_p);
            const T down = is_negative(z) ? size : T(0), grows = unless_none(down, T(0));
            const T shrinks = unless_none(base, of_margin), low = unless_none(lost, lost_of_p);
            power = power_of_sum(gamma, grows > far ? far : grows, gamma, shrinks > far ? far : shrinks, low);
            const T lifted_rest = is_negative(z) ? one : lifted, by_p = unless_none(lifted_rest, lifted / safe);
            outer = fma(gamma.high * logit.finite(inner), by_p, by_rest) * inverse;
        } else {
            outer = by_rest * inverse;
        }
    }

    // The coefficient times the loss; one of 0 hides an infinite |z|.
    BINXENT_INLINE T loss(T coefficient) const {
        const T value = coefficient * (coefficient == 0 ? T(0) : inner);
        T found = value;
        if constexpr (powered) {
            found = times(value, power);
            found = found == found ? found : value;
        }
        return n <= 0 ? T(0) : found;
    }

    BINXENT_INLINE T slope(T coefficient) const {
        T found = coefficient * outer;
        if constexpr (powered) found = times(found, power);
        return n <= 0 ? T(0) : found * Float<T>::drop;
    }
};

// Of a logit, with a margin. A hard target has one branch, which costs half as much as both.
template <class T, bool powered, bool hard>
struct MarginLogit {
    T positive, negative;
    Logit<T> logit;
    T e;
    MarginBranch<T, powered, Margin::some> of_negative;
    MarginBranch<T, powered, Margin::none> of_positive;

    BINXENT_INLINE MarginLogit(T x, T, const Branches<T>& of, const Terms<T>& terms)
        : positive(of.positive),
          negative(of.negative),
          logit(x),
          e(logit.lifted() * Float<T>::drop),
          of_negative(logit, x, e, terms.margin, terms.negative.gamma, terms.negative.far),
          of_positive(logit, -x, e, T(0), terms.gamma.gamma, terms.gamma.far) {}

    BINXENT_INLINE T loss() const { return of_positive.loss(positive) + of_negative.loss(negative); }
    BINXENT_INLINE T gradient(T factor) const {
        return of_negative.slope(negative * factor) - of_positive.slope(positive * factor);
    }
};

template <class T, bool powered>
struct MarginLogit<T, powered, true> {
    T target, coefficient;
    Logit<T> logit;
    T e;
    MarginBranch<T, powered, Margin::either> branch;

    BINXENT_INLINE MarginLogit(T x, T target, const Branches<T>& of, const Terms<T>& terms)
        : target(target),
          coefficient(target != 0 ? of.positive : of.negative),
          logit(x),
          e(logit.lifted() * Float<T>::drop),
          branch(logit, target != 0 ? -x : x, e, target != 0 ? T(0) : terms.margin,
                 either(target != 0, terms.gamma.gamma, terms.negative.gamma),
                 target != 0 ? terms.gamma.far : terms.negative.far) {}

    BINXENT_INLINE T loss() const { return branch.loss(coefficient); }
    BINXENT_INLINE T gradient(T factor) const {
        const T slope = branch.slope(coefficient * factor);
        return target != 0 ? T(0) - slope : slope;  // a 0 without a sign, as the difference of two branches has it
    }
};

// Of a logit, with the power of p_t. With y and 1 − y before any weight, in the order of |x|: b leads, a trails, and
//
//     u      = (b + a·e)/(1 + e),   C = leading·(|x| + l) + trailing·l
//     loss   = α_t·u^γ·C
//     d/dx   = ±α_t·u^γ·[ (leading − trailing·e)/(1 + e) + γ·C·(b − a)·e/((b + a·e)·(1 + e)) ]
template <class T>
struct PtLogit {
    T x, leading, trailing, b, a, alpha, gamma;
    Logit<T> logit;
    T e, rest, log1p, numerator;
    Exponential<T> power;

    BINXENT_INLINE PtLogit(T x, T target, const Branches<T>& of, const Terms<T>& terms)
        : x(x), gamma(terms.gamma.gamma.high), logit(x), power(T(0)) {
        Branches<T> y(target);
        terms.smoothing.smooth(y);
        const bool left = is_negative(x);
        leading = left ? of.positive : of.negative;
        trailing = left ? of.negative : of.positive;
        b = left ? y.positive : y.negative;
        a = left ? y.negative : y.positive;
        alpha = fma(terms.share, y.positive, terms.other_share * y.negative);
        e = logit.lifted() * Float<T>::drop;
        rest = e * polynomial(e, Coefficients<T>::log1p);
        log1p = fma(e, T(0.75), rest);
        const T lost = fma(e, T(0.75), -log1p) + rest;
        numerator = fma(a, e, b);
        // Where b is 0, u is a·e/(1 + e), whose logarithm has |x| in it: e may be 0. Then a is 1, but for an odd target.
        T lost_of_u;
        const T of_u = b == 0 ? a : numerator;
        const T log = clamped_minus_log(of_u, lost_of_u);
        const T size = logit.size > terms.gamma.far ? terms.gamma.far : logit.size;
        power = power_of_sum(terms.gamma.gamma, b == 0 ? size + log : log, terms.gamma.gamma, log1p, lost + lost_of_u);
        power.power = of_u <= 0 ? T(0) : power.power;
    }

    BINXENT_INLINE T cross_entropy(T size) const {
        return fma(leading + trailing, log1p, leading != 0 ? leading * size : T(0));
    }

    BINXENT_INLINE T loss() const {
        const T value = cross_entropy(logit.size), found = times(alpha * value, power);
        return found == found ? found : value;  // an infinite cross-entropy times a part that is 0
    }

    BINXENT_INLINE T gradient(T factor) const {
        const T ratio = b == 0 ? T(1) : numerator > 0 ? e / numerator : T(0);
        const T by_power = gamma * cross_entropy(logit.finite(logit.size)) * (b == 0 ? -T(1) : b - a) * ratio;
        const T slope = (fma(-trailing, e, leading) + by_power) / (T(1) + e);
        return with_sign_of(x, times(alpha * factor * slope, power));
    }
};

// Of a probability, with a power for each branch, and a margin or none.
template <class T>
struct MarginProbability {
    T q, positive, negative;
    T lost, lost1m, lost_of_margin, lost_of_rest;  // of the logarithms
    T minus_log, minus_log1m;
    Exponential<T> of_positive;
    T shifted, rest;  // q − m and 1 − q + m
    bool counts;
    T inner, minus_log_shifted;  // −log(1 − q + m) and −log(q − m)
    Exponential<T> of_negative;
    T gamma, gamma_negative;

    BINXENT_INLINE MarginProbability(T q, T, const Branches<T>& of, const Terms<T>& terms)
        : q(q),
          positive(of.positive),
          negative(of.negative),
          minus_log(clamped_minus_log(q, lost)),
          minus_log1m(clamped_minus_log1m(q, lost1m)),
          of_positive(focal_power(terms.gamma.gamma, minus_log1m, lost1m)),
          shifted(q - terms.margin),
          rest((T(1) - q) + terms.margin),
          counts(!(shifted <= 0)),
          inner(minus_log_near(counts ? rest : T(1), counts ? shifted : T(0), lost_of_rest)),
          minus_log_shifted(clamped_minus_log(counts ? shifted : T(1), lost_of_margin)),
          of_negative(focal_power(terms.negative.gamma, minus_log_shifted, lost_of_margin)),
          gamma(terms.gamma.gamma.high),
          gamma_negative(terms.negative.gamma.high) {
        if (!(minus_log1m < terms.gamma.clamp)) of_positive.power = 0;
    }

    BINXENT_INLINE T loss() const {
        const T of_negatives = counts ? lifted_times(negative * inner, of_negative) : T(0);
        return (lifted_times(positive * minus_log, of_positive) + of_negatives) * Float<T>::drop;
    }

    BINXENT_INLINE T gradient(T factor) const {
        using F = Float<T>;
        const T raised = q * F::raise, other = T(1) - q, product = raised * other;
        const T denominator = product < F::tiny_product * F::raise ? F::tiny_product * F::raise : product;
        const T falling = positive * (factor * F::raise) * fma(gamma * q, minus_log, other);
        const T rising = negative * factor * (T(1) / rest + gamma_negative * inner / (counts ? shifted : T(1)));
        const T up = counts ? lifted_times(rising, of_negative) : T(0);
        return (up - lifted_times(falling, of_positive) / denominator) * F::drop;
    }
};

// Of a probability, with the power of p_t.
template <class T>
struct PtProbability {
    T q, positive, negative, y, rest, alpha, gamma;
    T minus_log, minus_log1m, u;
    Exponential<T> power;

    BINXENT_INLINE PtProbability(T q, T target, const Branches<T>& of, const Terms<T>& terms)
        : q(q), positive(of.positive), negative(of.negative), gamma(terms.gamma.gamma.high), power(T(0)) {
        Branches<T> smoothed(target);
        terms.smoothing.smooth(smoothed);
        y = smoothed.positive;
        rest = smoothed.negative;
        alpha = fma(terms.share, y, terms.other_share * rest);
        minus_log = clamped_minus_log(q);
        minus_log1m = clamped_minus_log1m(q);
        u = fma(y, T(1) - q, rest * q);
        T lost;
        const T log = clamped_minus_log(u, lost);
        power = focal_power(terms.gamma.gamma, log > terms.gamma.far ? terms.gamma.far : log, lost);
        power.power = u <= 0 ? T(0) : power.power;
    }

    BINXENT_INLINE T cross_entropy() const { return fma(positive, minus_log, negative * minus_log1m); }
    BINXENT_INLINE T loss() const { return lifted_times(alpha * cross_entropy(), power) * Float<T>::drop; }

    BINXENT_INLINE T gradient(T factor) const {
        using F = Float<T>;
        const T raised = q * F::raise, other = T(1) - q, product = raised * other;
        const T denominator = product < F::tiny_product * F::raise ? F::tiny_product * F::raise : product;
        const T of_power = gamma * cross_entropy() * (rest - y) * other * (u > 0 ? raised / u : T(0));
        const T slope = (negative * raised - positive * (other * F::raise) + of_power) / denominator;
        return lifted_times(alpha * factor * slope, power) * F::drop;
    }
};

}  // namespace binxent::BINXENT_ISA
