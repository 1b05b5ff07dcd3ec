// The second derivative of a logit's loss, and the loops that write it beside the loss and the gradient.
//
// As in math.h, neither of σ(x) and σ(−x) is made from the other. The focal power is computed in double.
#pragma once

#include <cstdint>
#include <type_traits>

#include "family_curvature.h"
#include "focal.h"
#include "loops.h"
#include "math.h"
#include "wide.h"  // before focal_bend, whose Wide operators it would not find later

namespace binxent::BINXENT_ISA {

// Returns d² loss / dx² · factor = total·factor·e / (1 + e)², where `total` is the sum of both coefficients.
template <class T>
BINXENT_INLINE T logit_curvature(const Logit<T>& logit, T total, T factor) {
    const T scale = total * (factor * Float<T>::drop) * logit.power;
    const T numerator = fma(scale, logit.q, scale);
    const T e = logit.lifted() * Float<T>::drop;
    const T denominator = T(1) + e;
#if defined(BINXENT_FMA)
    // The gradient has the same inverse. One step of long division by (1 + e)² takes back what was rounded since.
    const T inverse = T(1) / denominator, inverse_square = inverse * inverse;
    const T quotient = numerator * inverse_square;
    const T more = fma(e, e, e + e), square = T(1) + more, lost = more - (square - T(1));
    const T remainder = fma(-quotient, lost, fma(-quotient, square, numerator));
    return fma(remainder, inverse_square, quotient);
#else
    return numerator / (denominator * denominator);
#endif
}

// With the focal power the loss of a positive has the second derivative σ(−x)^γ·σ(x)·bend, and that of a negative has the
// same of −x. V is a floating type or Wide, `sigma` is σ(x), `other` is σ(−x), `softplus` is that of −x.
template <class V>
BINXENT_INLINE V focal_bend(V sigma, V other, V softplus, V gamma, V twice_gamma_and_one) {
    return twice_gamma_and_one * other + gamma * softplus * (gamma * sigma + -other);
}

// The second derivatives of both branches, and their mean over the labels of which this logit is the best prediction. Where
// the branches' slopes are A and −B, these are positive with the probability B/(A + B) (Charoenphakdee et al. 2021).
template <class V>
struct FocalCurves {
    V positive, negative, expected;
};

BINXENT_INLINE double exp_of_minus(double size) {
    const Exponential<double> power(Logit<double>::finite(size));
    return power.lifted() * power.drop;
}

template <class T>
BINXENT_INLINE FocalCurves<T> focal_curves(T x, T gamma) {
    const Logit<T> logit(x);
    const bool left = x < 0;
    const T on_left = left ? T(1) : T(0), on_right = T(1) - on_left;
    const T softplus = logit_loss(logit, on_left, T(1)), opposite = logit_loss(logit, on_right, T(1));
    const T e = logit.lifted() * Float<T>::drop;
    const T larger = T(1) / (T(1) + e), smaller = e / (T(1) + e);  // σ(|x|), σ(−|x|)
    const T sigma = left ? smaller : larger, other = left ? larger : smaller;
    // Where a softplus is beyond the limit, the sigmoid that multiplies it is 0.
    const T limit = Float<T>::exp_limit;
    const T finite = softplus > limit ? limit : softplus, finite_opposite = opposite > limit ? limit : opposite;
    const T twice = T(2) * gamma + T(1);
    const T bend = sigma * focal_bend(sigma, other, finite, gamma, twice);
    const T other_bend = other * focal_bend(other, sigma, finite_opposite, gamma, twice);
    const T power = exp_of_minus(gamma * opposite), other_power = exp_of_minus(gamma * softplus);
    // Both slopes, without their powers. Their quotient has the smaller power divided by the larger, which is e^γ.
    const T down = fma(gamma * sigma, finite, other), up = fma(gamma * other, finite_opposite, sigma);
    const T ratio = exp_of_minus(gamma * logit.size);
    const T slopes = left ? fma(up, ratio, down) : fma(down, ratio, up);
    return {power * bend, other_power * other_bend,
            (left ? other_power : power) * fma(up, bend, down * other_bend) / slopes};
}

template <class T>
struct CurvedTile : Tile<T> {
    T* hessian;
};

template <class T, Kind kind, bool selects, bool want_loss>
void curved_tile(int64_t n, const CurvedTile<T>& tile, const Terms<T>& terms, T factor) {
    const T* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    T* __restrict hessians = tile.hessian;
    const Shown<T, selects> shown{tile.kept, tile.hidden};
    for_each_element<T, kind>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& branches) BINXENT_ALWAYS {
        const LogitElement<T> element(xs[i], branches);
        const T total = has_weights(kind) ? element.leading + element.trailing : T(1);
        if constexpr (want_loss) losses[i] = shown(i, element.template loss<has_weights(kind)>());
        gradients[i] = shown(i, element.gradient(factor));
        hessians[i] = shown(i, logit_curvature(element.logit, total, factor));
    });
}

// With the focal power there are always weights and a loss, since the loop is bound by its arithmetic anyway.
template <bool expected>
void focal_curved_tile(int64_t n, const CurvedTile<double>& tile, const Terms<double>& terms, double factor) {
    using T = double;
    const T* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    T* __restrict hessians = tile.hessian;
    const Shown<T, true> shown{tile.kept, tile.hidden};
    const Gamma<T> gamma = terms.gamma;
    for_each_element<T, Kind::weighted>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& of) BINXENT_ALWAYS {
        const FocalLogit<T> element(xs[i], of, gamma, gamma);
        const FocalCurves<T> curves = focal_curves(xs[i], gamma.gamma.high);
        const T exact = of.positive * curves.positive + of.negative * curves.negative;
        losses[i] = shown(i, element.loss());
        gradients[i] = shown(i, element.gradient(factor));
        hessians[i] = shown(i, (expected ? (of.positive + of.negative) * curves.expected : exact) * factor);
    });
}

template <class Element, bool expected>
void family_curved_tile(int64_t n, const CurvedTile<double>& tile, const Terms<double>& given, double factor) {
    using T = double;
    const T* __restrict xs = tile.x;
    const T* __restrict targets = tile.target;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    T* __restrict hessians = tile.hessian;
    const Shown<T, true> shown{tile.kept, tile.hidden};
    const Terms<T> terms = given;  // a copy, as in family_tile
    for_each_element<T, Kind::weighted>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& of) BINXENT_ALWAYS {
        const Element element(xs[i], targets[i], of, terms);
        losses[i] = shown(i, element.loss());
        gradients[i] = shown(i, element.gradient(factor));
        hessians[i] = shown(i, expected ? element.expected(factor) : element.exact(factor));
    });
}

template <class T>
using CurvedStep = void (*)(int64_t, const CurvedTile<T>&, const Terms<T>&, T);

template <class T, Kind kind>
CurvedStep<T> choose_curved(const Job& job) {
    const bool want_loss = job.loss || job.value;
    return job.selects() ? (want_loss ? curved_tile<T, kind, true, true> : curved_tile<T, kind, true, false>)
                         : (want_loss ? curved_tile<T, kind, false, true> : curved_tile<T, kind, false, false>);
}

template <class Element>
CurvedStep<double> choose_curved_family(const Job& job) {
    return job.expects ? family_curved_tile<Element, true> : family_curved_tile<Element, false>;
}

inline CurvedStep<double> choose_curved_family(const Job& job) {
    if (job.of_p_t) return choose_curved_family<PtCurve>(job);
    if (job.margin == 0) return choose_curved_family<AsymmetricCurve>(job);
    return job.largest_power() > 0 ? choose_curved_family<MarginCurve<true>>(job) : choose_curved_family<MarginCurve<false>>(job);
}

// The loop that a job needs. There is none for a pos_weight alone: a weight of 1 has no influence on the bits.
template <class T>
CurvedStep<T> choose_curved(const Job& job) {
    if constexpr (std::is_same_v<T, double>) {
        if (job.is_family()) return choose_curved_family(job);
        if (job.gamma > 0) return job.expects ? focal_curved_tile<true> : focal_curved_tile<false>;
    }
    if (job.weights > 0 || job.pos_weight || job.neg_weight || job.has_share()) return choose_curved<T, Kind::weighted>(job);
    return job.label_smoothing != 0 ? choose_curved<T, Kind::smoothed>(job) : choose_curved<T, Kind::plain>(job);
}

}  // namespace binxent::BINXENT_ISA
