// The second derivative once more, for coefficients and logits of any size: that of focal_curvature.py, of one element.
#pragma once

#include "core/job.h"
#include "curvature.h"
#include "wide_loss.h"

namespace binxent::BINXENT_ISA {

// The curves of both branches, each of which has a gamma, without margin.
inline FocalCurves<Wide> wide_focal_curves(double x, double gamma, double of_negatives) {
    const WideLogit logit(x);
    const Wide sigma = logit.other, other = logit.sigma;
    if (gamma == 0 && of_negatives == 0) return {sigma * other, sigma * other, sigma * other};
    if (!is_finite(logit.softplus) || !is_finite(logit.opposite)) return {};
    const Wide g = wide(gamma), h = wide(of_negatives);
    const Wide bend = sigma * focal_bend(sigma, other, logit.softplus, g, wide(2 * gamma + 1));
    const Wide other_bend = other * focal_bend(other, sigma, logit.opposite, h, wide(2 * of_negatives + 1));
    const double size = gamma * number(logit.opposite), other_size = of_negatives * number(logit.softplus);
    const Wide power = wide_exp_of_minus(size), other_power = wide_exp_of_minus(other_size);
    const Wide down = other + g * sigma * logit.softplus, up = sigma + h * other * logit.opposite;
    const bool one_gamma = gamma == of_negatives, ahead = one_gamma ? x < 0 : size < other_size;
    const Wide ratio = wide_exp_of_minus(one_gamma ? gamma * absolute(x) : absolute(size - other_size));
    const Wide slopes = ahead ? up * ratio + down : down * ratio + up;
    return {power * bend, other_power * other_bend,
            (ahead ? other_power : power) * (up * bend + down * other_bend) / slopes};
}

// Of a negative with a margin, for a p above it.
inline Wide wide_margin_curve(double p, double rest, Wide slope, double margin, double gamma) {
    const double shifted = p - margin, left = rest + margin;
    const double inner = shifted < 0.5 ? clamped_minus_log1m(shifted) : clamped_minus_log(left);
    const double bend = 2 * p * rest / (shifted * left) +
                        inner * (gamma * p * rest - p * shifted - margin * rest) / (shifted * shifted);
    const Wide power = wide_exp_of_minus(gamma * clamped_minus_log(shifted));
    return slope * power * wide((rest * rest + margin * (rest - p)) / (left * left) + gamma * bend);
}

inline Wide wide_asymmetric_curvature(const Job& job, double x, Wide positive, Wide negative) {
    FocalCurves<Wide> curves = wide_focal_curves(x, job.gamma, job.power_of_negatives());
    if (job.margin > 0) {
        const WideLogit logit(x);
        const double p = number(logit.other), rest = number(logit.sigma);
        if (p <= job.margin)
            negative = Wide();
        else if (!job.expects)
            curves.negative = wide_margin_curve(p, rest, logit.other * logit.sigma, job.margin, job.power_of_negatives());
    }
    return job.expects ? (positive + negative) * curves.expected
                       : positive * curves.positive + negative * curves.negative;
}

// The coefficients have the α of p_t.
inline Wide wide_p_t_curvature(const Job& job, double x, double y, double rest, Wide positive, Wide negative) {
    if (job.expects) return (positive + negative) * wide_focal_curves(x, job.gamma, job.gamma).expected;
    const WideLogit logit(x);
    const Wide p = logit.other, other = logit.sigma, slope = p * other, u = wide(y) * other + wide(rest) * p;
    if (u.part <= 0 || !is_finite(logit.softplus) || !is_finite(logit.opposite)) return {};
    const Wide cross_entropy = times(positive, logit.softplus) + times(negative, logit.opposite);
    const Wide by_power = wide(job.gamma * (rest - y)) * slope;
    const Wide bend = (by_power + wide(y) * other * other + -(wide(rest) * p * p)) / u;
    const Wide inner = wide(2) * (negative * p + -(positive * other)) + cross_entropy * bend;
    return wide_power_of_p_t(job.gamma, y, rest, logit.softplus, logit.opposite, u) *
           ((positive + negative) * slope + by_power / u * inner);
}

// y and `rest` are the smoothed target and 1 − target, the coefficients all that multiplies the branches.
inline Wide wide_curvature(const Job& job, double x, double y, double rest, Wide positive, Wide negative) {
    return job.of_p_t ? wide_p_t_curvature(job, x, y, rest, positive, negative)
                      : wide_asymmetric_curvature(job, x, positive, negative);
}

}  // namespace binxent::BINXENT_ISA
