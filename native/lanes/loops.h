// The loops over a tile, and which of them a job needs. What they compute of one element stands in math.h.
#pragma once

#include <cstdint>

#include "convert.h"
#include "core/job.h"
#include "family.h"
#include "focal.h"
#include "math.h"
#include "terms.h"
#include "tiles.h"

namespace binxent::BINXENT_ISA {

// The operands and outputs of a tile. x and the target may lie in another type, S, than the arithmetic's.
template <class T, class S = T>
struct Tile {
    const S *x, *target;
    const T *weight, *pos_weight, *neg_weight, *kept;
    T hidden;  // an element is ignored where `kept` is this
    T* loss;
    T* gradient;
};

// What is done to y and 1 − y before they are coefficients. Each kind does what those before it do, too.
enum class Kind { plain, smoothed, shared, pos_weighted, neg_weighted, weighted };
constexpr bool has_weights(Kind kind) { return kind >= Kind::shared; }  // the coefficients do not add up to 1

// Calls element(i, branches) with the coefficients of each element, in a loop that vectorises.
template <class T, Kind kind, class S, class Element>
BINXENT_INLINE void for_each_element(int64_t n, const Tile<T, S>& tile, Smoothing<T> smoothing, Element element) {
    const S* __restrict targets = tile.target;
    const T* __restrict weights = tile.weight;
    const T* __restrict pos_weights = tile.pos_weight;
    const T* __restrict neg_weights = tile.neg_weight;
    for (int64_t start = 0; start < n; start += chunk) {
        prefetch_chunk(tile.x + start);
        prefetch_chunk(targets + start);
        const int64_t end = start + chunk < n ? start + chunk : n;
#pragma GCC ivdep  // outputs and operands are apart, and too many for the compiler to check that at run time
        for (int64_t i = start; i < end; ++i) {
            Branches<T> branches(T(widen(targets[i])));
            if constexpr (kind != Kind::plain) smoothing.smooth(branches);
            if constexpr (kind >= Kind::pos_weighted) branches.positive = branches.positive * pos_weights[i];
            if constexpr (kind >= Kind::neg_weighted) branches.multiply_negative(neg_weights[i]);
            if constexpr (kind == Kind::weighted) branches.multiply(weights[i]);
            element(i, branches);
        }
    }
}

// An ignored element adds nothing, whatever was computed of it.
template <class T, bool selects>
struct Shown {
    const T* __restrict kept;
    const T hidden;

    BINXENT_INLINE T operator()(int64_t i, T value) const {
        if constexpr (selects) return kept[i] != hidden ? value : T(0);
        return value;
    }
};

template <class T, Kind kind, bool selects, bool want_loss, bool want_gradient, class S>
void logits_tile(int64_t n, const Tile<T, S>& tile, const Terms<T>& terms, T factor) {
    const S* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, selects> shown{tile.kept, tile.hidden};
    for_each_element<T, kind>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& branches) BINXENT_ALWAYS {
        const LogitElement<T> element(T(widen(xs[i])), branches);
        if constexpr (want_loss) losses[i] = shown(i, element.template loss<has_weights(kind)>());
        if constexpr (want_gradient) gradients[i] = shown(i, element.gradient(factor));
    });
}

template <class T, Kind kind, bool selects, bool want_loss, bool want_gradient>
void probabilities_tile(int64_t n, const Tile<T>& tile, const Terms<T>& terms, T factor) {
    const T* __restrict qs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, selects> shown{tile.kept, tile.hidden};
    for_each_element<T, kind>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& branches) BINXENT_ALWAYS {
        const T q = qs[i], positive = branches.positive, negative = branches.negative;
        if constexpr (want_loss) losses[i] = shown(i, probability_loss(q, positive, negative));
        if constexpr (want_gradient) gradients[i] = shown(i, probability_gradient(q, positive, negative, factor));
    });
}

// With the focal power there are two loops: for a call without other options, and for any call.
template <class T, class Element, bool any, bool want_gradient, class S>
void focal_tile(int64_t n, const Tile<T, S>& tile, const Terms<T>& terms, T factor) {
    const S* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, any> shown{tile.kept, tile.hidden};
    const Gamma<T> gamma = terms.gamma, negative = terms.negative;
    constexpr Kind kind = any ? Kind::weighted : Kind::plain;
    for_each_element<T, kind>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& branches) BINXENT_ALWAYS {
        const Element element(T(widen(xs[i])), branches, gamma, negative);
        losses[i] = shown(i, element.loss());
        if constexpr (want_gradient) gradients[i] = shown(i, element.gradient(factor));
    });
}

// With what family.h has there is one loop for any call.
template <class T, class Element, bool want_gradient>
void family_tile(int64_t n, const Tile<T>& tile, const Terms<T>& given, T factor) {
    const T* __restrict xs = tile.x;
    const T* __restrict targets = tile.target;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, true> shown{tile.kept, tile.hidden};
    const Terms<T> terms = given;  // a copy, which no output can change: the compiler keeps it in registers
    for_each_element<T, Kind::weighted>(n, tile, terms.smoothing, [=](int64_t i, const Branches<T>& of) BINXENT_ALWAYS {
        const Element element(xs[i], targets[i], of, terms);
        losses[i] = shown(i, element.loss());
        if constexpr (want_gradient) gradients[i] = shown(i, element.gradient(factor));
    });
}

template <class T>
bool are_hard(int64_t n, const T* target) {
    unsigned soft = 0;
    for (int64_t i = 0; i < n; ++i) soft |= unsigned(target[i] != 0) & unsigned(target[i] != 1);
    return soft == 0;
}

// With a margin, a tile of hard targets has a loop of its own, which gives the same bits.
template <class T, bool powered, bool want_gradient>
void margin_tile(int64_t n, const Tile<T>& tile, const Terms<T>& terms, T factor) {
    if (terms.smoothing.half == 0 && terms.smoothing.other_half == 0 && are_hard(n, tile.target))
        family_tile<T, MarginLogit<T, powered, true>, want_gradient>(n, tile, terms, factor);
    else
        family_tile<T, MarginLogit<T, powered, false>, want_gradient>(n, tile, terms, factor);
}

template <class T>
bool out_of_range(int64_t n, const T* v, const T* kept, T hidden) {
    unsigned outside = 0;
    for (int64_t i = 0; i < n; ++i) outside |= (unsigned(!(v[i] >= 0)) | unsigned(!(v[i] <= 1))) & unsigned(kept[i] != hidden);
    return outside != 0;
}

template <class T>
bool any_negative(int64_t n, const T* v, const T* kept, T hidden) {
    unsigned negative = 0;
    for (int64_t i = 0; i < n; ++i) negative |= unsigned(v[i] < 0) & unsigned(kept[i] != hidden);
    return negative != 0;
}

// Returns flags for what `check_targets` refuses; `kept` is the mask's reader.
template <class T, class Kept>
unsigned wrong_operands(const Job& job, int64_t n, const Tile<T>& tile, int64_t start, Kept& kept) {
    unsigned wrong = 0;
    if (job.input == Input::logits && out_of_range(n, tile.target, tile.kept, tile.hidden)) wrong |= target_out_of_range;
    if (job.pos_weight && any_negative(n, tile.pos_weight, tile.kept, tile.hidden)) wrong |= negative_pos_weight;
    if (job.neg_weight && any_negative(n, tile.neg_weight, tile.kept, tile.hidden)) wrong |= negative_neg_weight;
    if (job.mask && kept.is_mask_fractional(start, n)) wrong |= mask_not_binary;
    return wrong;
}

// Writes NaN for every element that is out of range: a caller in a compiled graph cannot raise.
template <class T>
void spoil_out_of_range(int64_t n, const Tile<T>& tile, const Job& job) {
    const bool any_input = job.input == Input::logits, any_target = !job.checks_targets && (any_input || job.any_target);
    for (int64_t i = 0; i < n; ++i) {
        const T q = tile.x[i], target = tile.target[i];
        const bool fits = any_target || (target >= 0 && target <= 1);
        if (tile.kept[i] != tile.hidden && !((any_input || (q >= 0 && q <= 1)) && fits)) tile.loss[i] = tile.gradient[i] = T(__builtin_nan(""));
    }
}

template <class T>
void saturate(int64_t n, T* v) {
    for (int64_t i = 0; i < n; ++i) v[i] = saturated(v[i]);
}

template <class T>
using Step = void (*)(int64_t, const Tile<T>&, const Terms<T>&, T);

template <class T, Kind kind, bool selects, bool want_loss, bool want_gradient>
Step<T> choose(Input input) {
    return input == Input::logits ? logits_tile<T, kind, selects, want_loss, want_gradient, T>
                                  : probabilities_tile<T, kind, selects, want_loss, want_gradient>;
}

template <class T, Kind kind, bool selects>
Step<T> choose(Input input, bool want_loss, bool want_gradient) {
    return !want_gradient ? choose<T, kind, selects, true, false>(input)
           : want_loss    ? choose<T, kind, selects, true, true>(input)
                          : choose<T, kind, selects, false, true>(input);
}

template <class T, Kind kind>
Step<T> choose(const Job& job) {
    const bool want_loss = job.loss || job.value, want_gradient = bool(job.gradient);
    return job.selects() ? choose<T, kind, true>(job.input, want_loss, want_gradient)
                         : choose<T, kind, false>(job.input, want_loss, want_gradient);
}

template <class T, class Element>
Step<T> choose_focal(const Job& job) {
    const bool any = job.weights > 0 || job.pos_weight || job.neg_weight || job.label_smoothing != 0 ||
                     job.has_share() || job.selects();
    // In double there is one loop: it is bound by its arithmetic anyway.
    if constexpr (sizeof(T) == sizeof(double)) return focal_tile<T, Element, true, true, T>;
    if (any) return job.gradient ? focal_tile<T, Element, true, true, T> : focal_tile<T, Element, true, false, T>;
    return job.gradient ? focal_tile<T, Element, false, true, T> : focal_tile<T, Element, false, false, T>;
}

template <class T, class Element>
Step<T> choose_family(const Job& job) {
    return job.gradient ? family_tile<T, Element, true> : family_tile<T, Element, false>;
}

template <class T>
Step<T> choose_family(const Job& job) {
    if (job.input == Input::probabilities)
        return job.of_p_t         ? choose_family<T, PtProbability<T>>(job)
               : job.margin > 0 ? choose_family<T, MarginProbability<T>>(job)
                                  : choose_focal<T, FocalProbability<T>>(job);
    if (job.of_p_t) return choose_family<T, PtLogit<T>>(job);
    if (job.margin == 0) return choose_family<T, AsymmetricLogit<T>>(job);
    if (job.largest_power() > 0) return job.gradient ? margin_tile<T, true, true> : margin_tile<T, true, false>;
    return job.gradient ? margin_tile<T, false, true> : margin_tile<T, false, false>;
}

// The loop that does all that the job asks for, and no more.
template <class T>
Step<T> choose(const Job& job) {
    if (job.is_family()) return choose_family<T>(job);
    if (job.gamma > 0)
        return job.input == Input::logits ? choose_focal<T, FocalLogit<T>>(job) : choose_focal<T, FocalProbability<T>>(job);
    if (job.weights > 0) return choose<T, Kind::weighted>(job);
    if (job.neg_weight) return choose<T, Kind::neg_weighted>(job);
    if (job.pos_weight) return choose<T, Kind::pos_weighted>(job);
    if (job.has_share()) return choose<T, Kind::shared>(job);
    return job.label_smoothing != 0 ? choose<T, Kind::smoothed>(job) : choose<T, Kind::plain>(job);
}

}  // namespace binxent::BINXENT_ISA
