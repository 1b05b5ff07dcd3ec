// The definition once more, for coefficients of any size. It takes one element at a time, and is some 500 times as slow as
// math.h.
#pragma once

#include "core/job.h"
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

// Returns log t, for a t in (0, 1].
inline double log_of(double t) { return -clamped_minus_log(t); }

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

// Returns the branch of a negative with a margin, from p and 1 − p; `slope` is dp/dx, or what a probability's is divided by.
inline WideBranch wide_margin(double p, double other, Wide slope, double margin, double gamma) {
    const double shifted = p - margin, rest = other + margin;
    if (shifted <= 0) return {Wide{0, 0}, Wide{0, 0}};
    const double inner = shifted < 0.5 ? clamped_minus_log1m(shifted) : clamped_minus_log(rest);
    const Wide power = wide_exp_of_minus(gamma * clamped_minus_log(shifted));
    return {power * wide(inner), slope * power * wide(1 / rest + gamma * inner / shifted)};
}

// The coefficients are p·y·w and (1 − y)·w, and each branch has its gamma.
inline WideBranch wide_logit(const Job& job, double x, Wide positive, Wide negative) {
    const WideLogit logit(x);
    const WideBranch one = wide_branch(logit, job.gamma);
    WideBranch none = wide_branch(-logit, job.power_of_negatives());
    none.slope = -none.slope;
    if (job.margin > 0)
        none = wide_margin(number(logit.other), number(logit.sigma), logit.other * logit.sigma, job.margin,
                           job.power_of_negatives());
    return {times(positive, one.loss) + times(negative, none.loss), positive * one.slope + negative * none.slope};
}

inline WideBranch wide_probability(const Job& job, double q, Wide positive, Wide negative) {
    const double minus_log = clamped_minus_log(q), minus_log1m = clamped_minus_log1m(q), product = q * (1 - q);
    const double gamma = job.gamma, of_negatives = job.power_of_negatives();
    const auto power = [&](double gamma, double size) {
        return gamma == 0 ? wide(1) : size < log_clamp ? wide_exp_of_minus(gamma * size) : Wide{0, 0};
    };
    const double bounded = product < Float<double>::tiny_product ? Float<double>::tiny_product : product;
    const Wide of_positive = positive * power(gamma, minus_log1m), of_negative = negative * power(of_negatives, minus_log);
    WideBranch none{of_negative * wide(minus_log1m),
                    of_negative * (wide(q) + wide(of_negatives) * wide(1 - q) * wide(minus_log1m))};
    if (job.margin > 0) {
        none = wide_margin(q, 1 - q, wide(bounded), job.margin, of_negatives);
        none = {negative * none.loss, negative * none.slope};
    }
    const Wide falling = of_positive * (wide(1 - q) + wide(gamma) * wide(q) * wide(minus_log));
    return {of_positive * wide(minus_log) + none.loss, (none.slope + -falling) / wide(bounded)};
}

// Returns u^γ, the power of p_t.
inline Wide wide_power_of_p_t(double gamma, double y, double rest, Wide minus_log, Wide minus_log1m, Wide u) {
    const double log = rest == 0 ? number(minus_log1m) - log_of(y) : y == 0 ? number(minus_log) - log_of(rest) : -log_of(number(u));
    return gamma == 0 ? wide(1) : wide_exp_of_minus(gamma * log);
}

// With the power of p_t, whose alpha the coefficients have. `slope` is dp/dx, or p·(1−p) of a probability.
inline WideBranch wide_p_t(double gamma, double y, double rest, Wide positive, Wide negative, Wide p, Wide other,
                           Wide minus_log, Wide minus_log1m) {
    const Wide u = wide(y) * other + wide(rest) * p;
    if (u.part <= 0) return {Wide{0, 0}, Wide{0, 0}};
    const Wide power = wide_power_of_p_t(gamma, y, rest, minus_log, minus_log1m, u);
    const Wide cross_entropy = times(positive, minus_log) + times(negative, minus_log1m);
    const Wide by_power = wide(gamma * (rest - y)) * times(p * other / u, cross_entropy);
    return {times(power, cross_entropy), power * (negative * p + -(positive * other) + by_power)};
}

// y and `rest` are the smoothed target and 1 − target, the coefficients all that multiplies the branches.
inline WideBranch wide_element(const Job& job, double x, double y, double rest, Wide positive, Wide negative) {
    const bool logits = job.input == Input::logits;
    if (!job.of_p_t) return logits ? wide_logit(job, x, positive, negative) : wide_probability(job, x, positive, negative);
    if (logits) {
        const WideLogit logit(x);
        return wide_p_t(job.gamma, y, rest, positive, negative, logit.other, logit.sigma, logit.softplus, logit.opposite);
    }
    WideBranch found = wide_p_t(job.gamma, y, rest, positive, negative, wide(x), wide(1 - x), wide(clamped_minus_log(x)),
                                wide(clamped_minus_log1m(x)));
    const double product = x * (1 - x);
    found.slope = found.slope / wide(product < Float<double>::tiny_product ? Float<double>::tiny_product : product);
    return found;
}

}  // namespace binxent::BINXENT_ISA
