// The definition once more, for coefficients of any size. It takes one element at a time, and is some 500 times as slow as
// math.h.
#pragma once

#include "math.h"
#include "wide.h"

namespace binxent::BINXENT_ISA {

// Returns exp(−size), however small that is.
inline Wide wide_exp_of_minus(double size) {
    using F = Float<double>;
    if (size > 20000) return {0, 0};  // below anything that the largest weights bring back
    const double n = (size * -F::log2_e + F::rounder) - F::rounder;
    const double r = -fma(n, F::ln2_low, fma(n, F::ln2_high, size));
    return wide(1 + fma(r * r, polynomial(r, Coefficients<double>::exp), r), int64_t(n));
}

// What both branches share, for a logit x: softplus and σ, of x and of −x.
struct WideLogit {
    Wide softplus, opposite;  // of −x and of x
    Wide sigma, other;        // σ(−x) and σ(x)

    explicit WideLogit(double x) {
        const double size = absolute(x);
        const Wide e = wide_exp_of_minus(size);
        const double shown = number(e);
        // Below 2^−60, log1p(e) is e.
        const Wide rest = shown < 0x1p-60 ? e : wide(fma(shown, 0.75, shown * polynomial(shown, Coefficients<double>::log1p)));
        const Wide grown = wide(size + number(rest)), sum = wide(1 + shown), larger = wide(1) / sum, smaller = e / sum;
        softplus = x < 0 ? grown : rest;
        opposite = x < 0 ? rest : grown;
        sigma = x < 0 ? larger : smaller;
        other = x < 0 ? smaller : larger;
    }

    WideLogit(Wide softplus, Wide opposite, Wide sigma, Wide other)
        : softplus(softplus), opposite(opposite), sigma(sigma), other(other) {}
    WideLogit operator-() const { return {opposite, softplus, other, sigma}; }  // that of −x
};

// A coefficient of 0 hides an infinite term.
inline Wide times(Wide coefficient, Wide term) { return coefficient.part == 0 ? Wide{0, 0} : coefficient * term; }

// What one branch adds to the loss of an element, and to its gradient.
struct WideBranch {
    Wide loss, slope;
};

// Returns the branch of a positive, for a logit. That of a negative is the branch of −x, with the slope negated.
inline WideBranch wide_branch(const WideLogit& logit, double gamma) {
    if (gamma == 0) return {logit.softplus, -logit.sigma};
    const Wide power = wide_exp_of_minus(gamma * number(logit.opposite));
    const Wide inner = logit.sigma + times(wide(gamma) * logit.other, logit.softplus);
    return {times(power, logit.softplus), -power * inner};
}

// `positive` and `negative` are the coefficients p·y·w and (1 − y)·w.
inline WideBranch wide_logit(double x, double gamma, Wide positive, Wide negative) {
    const WideLogit logit(x);
    const WideBranch one = wide_branch(logit, gamma), none = wide_branch(-logit, gamma);
    return {times(positive, one.loss) + times(negative, none.loss), positive * one.slope + -(negative * none.slope)};
}

inline WideBranch wide_probability(double q, double gamma, Wide positive, Wide negative) {
    const double minus_log = clamped_minus_log(q), minus_log1m = clamped_minus_log1m(q), product = q * (1 - q);
    const auto power = [&](double size) {
        return gamma == 0 ? wide(1) : size < log_clamp ? wide_exp_of_minus(gamma * size) : Wide{0, 0};
    };
    const Wide of_positive = positive * power(minus_log1m), of_negative = negative * power(minus_log);
    const Wide rising = of_negative * (wide(q) + wide(gamma) * wide(1 - q) * wide(minus_log1m));
    const Wide falling = of_positive * (wide(1 - q) + wide(gamma) * wide(q) * wide(minus_log));
    const double bounded = product < Float<double>::tiny_product ? Float<double>::tiny_product : product;
    return {of_positive * wide(minus_log) + of_negative * wide(minus_log1m), (rising + -falling) / wide(bounded)};
}

}  // namespace binxent::BINXENT_ISA
