// Finds the elements of a tile that the vectorised loops would get wrong, and computes them once more.
//
// The loops multiply target, weights and factor in the arithmetic's type. An element is extreme if such a product may
// leave the type's range on the way, or bring back what has lost its digits there. Whether it is extreme depends on its own
// operands alone, so that its bits depend neither on its neighbours nor on how the elements are divided.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "convert.h"
#include "core/job.h"
#include "core/view.h"
#include "tiles.h"
#include "wide_loss.h"

namespace binxent::BINXENT_ISA {

// The factor of every gradient, incoming / divisor, in two parts. Where the loops would lose digits, or overflow on the way,
// they take only its mantissa (`within`). What they have made is then multiplied by the rest (`after`), which is a power of
// two, or infinity.
struct Factor {
    const Wide whole;
    double within, after = 1;

    // A divisor of 0 means that nothing is kept, or that nothing kept has a weight: then the gradient is 0.
    explicit Factor(const Job& job)
        : whole(job.divisor == 0 ? Wide() : wide(job.incoming) / wide(job.divisor, job.divisor_exponent)),
          within(number(whole)) {
        const double size = absolute(within);
        const bool infinite = size == __builtin_inf();
        const bool small = size < 0x1p-60 && size >= Float<double>::smallest_normal;
        // For logits a large factor stays within: it brings a subnormal tail of the gradient back, if it multiplies the tail
        // before that is rounded.
        const bool large = size > 0x1p60 && job.input == Input::probabilities;
        if (!small && !large && !infinite) return;
        after = infinite ? size : bits_as<double>(bits_as<uint64_t>(size) & ~((uint64_t(1) << Float<double>::mantissa) - 1));
        within = infinite ? with_sign_of(within, 1.0) : within / after;
    }

    // The exponent of the part that the loops take.
    int64_t exponent() const { return after == 1 ? whole.exponent : 0; }
    bool is_finite() const { return after - after == 0 && within - within == 0; }
    bool is_ordinary() const { return whole.exponent >= -1022 && whole.exponent <= 1023; }
};

// How much the loops of a type stand, as powers of two: a coefficient lies between 2^±coefficient, and its product with the
// factor is at most 2^product. Where the element is far, a logit beyond `far` or a probability below it, that product is at
// most 2^tail: above, it would show what the tails of exp and of the focal power have lost, or cut off.
template <class T>
struct Stands;
constexpr int64_t no_tail = 2000;  // above any product
template <>
struct Stands<float> {
    static constexpr int64_t coefficient = 80, subnormal = 17;
    static constexpr float large = 0x1p110f, small = 0x1p-100f;  // a sum stands losses between these
    int64_t product = 120, tail = 16;
    float far = 115;

    explicit Stands(const Job& job) {
        const bool focal = job.is_focal();
        if (job.input == Input::logits) {
            if (focal) product = 48, tail = 0, far = 86;
            return;
        }
        // 1/(q·(1 − q)) still multiplies the product, and a focal power is lifted. That of a q below `far` may be subnormal.
        product = focal ? 30 : 80;
        tail = focal ? 10 : no_tail;
        far = 0x1p-80f;
        const double power = job.largest_power();
        const double small = power > 0 ? number(wide_exp_of_minus(100 / power)) : 0;
        if (small > far) far = float(small);
    }
};
template <>
struct Stands<double> {
    // Times a probability that is not far, at least 2^-200, and 1/(q·(1 − q)), at most 2^40, it is a normal number.
    static constexpr int64_t coefficient = 860, subnormal = 48;
    static constexpr double large = 0x1p1000, small = 0x1p-900;
    int64_t product, tail;
    double far;

    explicit Stands(const Job& job) {
        const bool logits = job.input == Input::logits;
        product = logits ? 1000 : job.is_focal() ? 800 : 900;
        tail = logits ? 12 : no_tail;
        far = logits ? 753 : 0x1p-200;
    }
};

// Returns n, where 2^-n is about the smallest number but 0 that smoothing and shares make of a hard target, before its weights.
inline int64_t exponent_of_shares(const Job& job) {
    double least = 1;
    for (const double share : {job.share, job.other_share})
        for (const double part : {1 - job.label_smoothing, job.label_smoothing / 2}) {
            const double product = share * part;
            if (product > 0 && product < least) least = product;
        }
    return Float<double>::bias - int64_t(bits_as<uint64_t>(least) >> Float<double>::mantissa);
}

// Whether any of the values is neither 0 nor of a size between these two. It compares the bits of the sizes, which are in the
// order of the numbers: of floats, the compiler would find no largest and smallest in vectors.
template <class T>
bool any_outside(const T* v, int64_t n, T least, T most) {
    using Bits = typename Float<T>::Bits;
    const Bits low = bits_as<Bits>(least), high = bits_as<Bits>(most);
    Bits farthest = 0;
#pragma GCC unroll 4
    for (int64_t i = 0; i < n; ++i) {
        const Bits above = bits_as<Bits>(v[i]) - low;
        farthest = above > farthest ? above : farthest;
    }
    if (farthest <= high - low) return false;
    // A 0 or a negative number, which few weights are, needs this second look.
    Bits largest = 0, smallest = ~Bits(0);  // the smallest less 1, where 0 is the largest of all
    for (int64_t i = 0; i < n; ++i) {
        const Bits size = bits_as<Bits>(v[i]) & ~Float<T>::sign, less = size - 1;
        largest = size > largest ? size : largest;
        smallest = less < smallest ? less : smallest;
    }
    return largest > high || (smallest != ~Bits(0) && smallest + 1 < low);
}

// Returns the product of element i of several views.
inline Wide wide_product(const View* views, int count, int64_t i) {
    Wide product = wide(1);
    for (int k = 0; k < count; ++k) {
        double value;
        load_line(views[k].dtype, {address_of(views[k], i), 0}, 1, &value);
        product = product * wide(value);
    }
    return product;
}

// Returns the product of two sizes. Where it is too small for a double it is the smallest normal number, and never a 0 that
// no bound would find.
inline double product_of(double a, double b) {
    const double product = a * b;
    return product == 0 && a != 0 && b != 0 ? Float<double>::smallest_normal : product;
}

template <class T>
class Extremes {
    using S = Stands<T>;

    // What the loops stand, for the loss or for the gradient: how large each weight and pos_weight may be, and their
    // product, everywhere and where the element is far. Far is a logit in a tail, or a probability next to 0.
    struct Bounds {
        bool every = false;  // the loops stand no operand at all
        double least = 0, most = 0, least_far = 0, most_far = 0;
        // If every operand lies between these, no product is outside: wherever the element is, or where it is not far.
        double surely_least = 0, surely_most = 0, nearly_least = 0, nearly_most = 0;

        Bounds() = default;
        // If `restores`, the rest of the factor brings back what a product has lost below the normal numbers: then no
        // probability may be far. With a focal power the product may be there for any probability.
        Bounds(const Job& job, const S& stands, int operands, int64_t exponent, bool restores) {
            const bool logits = job.input == Input::logits;
            const int64_t up = exponent > 0 ? exponent : 0, down = exponent < 0 ? -exponent : 0;
            const int64_t product = stands.product - up;
            const int64_t up_to = product < S::coefficient ? product : S::coefficient;
            every = up_to < 0 || (restores && job.is_focal());
            if (every) return;
            const int64_t down_to = S::coefficient - exponent_of_shares(job) - (logits ? down : 0);
            most = power_of_two(up_to);
            least = power_of_two(-down_to);
            const int share = operands > 0 ? operands : 1;
            surely_most = nearly_most = power_of_two(up_to / share);
            surely_least = nearly_least = power_of_two(-(down_to / share));
            most_far = __builtin_inf();
            if (stands.tail != no_tail) {
                const int64_t tail = stands.tail - up;
                most_far = power_of_two(tail);
                const double each = power_of_two(tail < 0 ? tail : tail / share);
                surely_most = each < nearly_most ? each : nearly_most;
            }
            if (logits) return;
            if (restores) {
                least_far = surely_least = __builtin_inf();
            } else if (up != 0) {
                least_far = power_of_two(-S::subnormal);
                surely_least = power_of_two(-(S::subnormal / share));
            }
        }

        bool is_outside(double size) const { return !(size <= most) || (size < least && size != 0); }
        bool is_outside(double own, double product) const { return is_outside(own) || is_outside(product); }
        bool is_outside_far(double product) const { return product > most_far || (product < least_far && product != 0); }
    };

    enum : uint8_t { in_loss = 1, in_gradient = 2 };

    const Job& job_;
    const Factor& factor_;
    const S stands_;
    // In double the focal power has any exponent, and any element of it may be far.
    const bool any_power_ = is_double && job_.is_focal();
    const View* operand_[max_weights + 2];     // the weights, the pos_weight and the neg_weight
    bool settled_[max_weights + 2] = {};       // true: no element of it is outside, whatever the input
    bool tame_[max_weights + 2] = {};          // true: no element of it is outside unless the input is far
    int operands_ = 0;
    Bounds loss_, gradient_, tighter_;
    bool found_ = false;
    const double small_;  // a smaller loss has lost digits that the divisor brings back
    static constexpr int64_t piece = 64;
    static constexpr bool is_double = sizeof(T) == sizeof(double);
    uint8_t mark_[tile_size];

    // Calls see(i, size) for n elements of operand k, in double: a float could hold 0 or infinity in their place.
    template <class See>
    void read(int k, int64_t start, int64_t n, See see) const {
        double buffer[piece];
        for_each_line(*operand_[k], start, n, [&](Line line, int64_t first, int64_t count) {
            for (int64_t done = 0; done < count; done += piece) {
                const int64_t here = count - done < piece ? count - done : piece;
                load_line(operand_[k]->dtype, line.from(done), here, buffer);
                for (int64_t i = 0; i < here; ++i) see(first + done + i, absolute(buffer[i]));
            }
        });
    }

    bool any_outside_bounds(int k, const T* values, int64_t start, int64_t n, double least, double most) const {
        if (!(least <= most)) return true;  // the loops stand no size at all, which any_outside could not tell
        if (sizeof(T) == sizeof(double) || operand_[k]->dtype != DType::float64)
            return any_outside(values, n, T(least), T(most));
        bool outside = false;
        read(k, start, n, [&](int64_t, double size) { outside |= !(size <= most) || (size < least && size != 0); });
        return outside;
    }

    bool may_be_outside(int k, const T* values, int64_t start, int64_t n) const {
        return any_outside_bounds(k, values, start, n, tighter_.surely_least, tighter_.surely_most);
    }

    // The same, but for what only the tails of an input would show.
    bool is_outside(int k, const T* values, int64_t start, int64_t n) const {
        return any_outside_bounds(k, values, start, n, tighter_.nearly_least, tighter_.nearly_most);
    }

    bool is_far(T x) const {
        const bool logits = job_.input == Input::logits;
        if (!any_power_) return logits ? absolute(x) > stands_.far : x < stands_.far;
        // The focal power times the logarithm may be subnormal.
        if (logits) return (job_.largest_power() + 1) * (absolute(double(x)) + 1) > 600;
        const double one = clamped_minus_log(double(x)), other = clamped_minus_log1m(double(x));
        return (job_.largest_power() + 1) * (one > other ? one : other) > 600;
    }

    // In pieces, since a thread may have 64 KiB of stack.
    void mark(const T* x, int64_t start, int64_t n) {
        for (int64_t done = 0; done < n; done += piece)
            mark_piece(x + done, start + done, n - done < piece ? n - done : piece, mark_ + done);
    }

    BINXENT_APART void mark_piece(const T* x, int64_t start, int64_t n, uint8_t* marks) {
        enum : uint8_t { far_in_loss = 4, far_in_gradient = 8 };
        double product[piece];
        const auto see = [&](int64_t i, double own, double product) {
            marks[i] |= (loss_.is_outside(own, product) ? in_loss : 0) |
                        (loss_.is_outside_far(product) ? far_in_loss : 0) |
                        (gradient_.is_outside(own, product) ? in_gradient : 0) |
                        (gradient_.is_outside_far(product) ? far_in_gradient : 0);
        };
        const uint8_t far = any_power_ ? far_in_loss | far_in_gradient : 0;
        for (int64_t i = 0; i < n; ++i) {
            marks[i] = far | (loss_.every ? in_loss : 0) | (gradient_.every ? in_gradient : 0);
            see(i, product[i] = 1, 1);
        }
        // The weights multiply both branches. Each of the two others multiplies one of them, besides.
        for (int k = 0; k < job_.weights; ++k)
            read(k, start, n, [&](int64_t i, double size) { see(i, size, product[i] = product_of(product[i], size)); });
        for (int k = job_.weights; k < operands_; ++k)
            read(k, start, n, [&](int64_t i, double size) { see(i, size, product_of(product[i], size)); });
        for (int64_t i = 0; i < n; ++i)
            if (marks[i] > in_gradient + in_loss && is_far(x[i])) marks[i] |= marks[i] / far_in_loss;
    }

    // y and 1 − y, smoothed, and their coefficients.
    struct Coefficients {
        double y, rest;
        Wide positive, negative;
    };

    // Returns false for what is ignored, and where an operand is no number, which the loops have passed on.
    template <class Tile>
    bool read_coefficients(const Tile& tile, int64_t start, int64_t i, Coefficients& found) const {
        const double x = widen(tile.x[i]), y = widen(tile.target[i]);
        const double unsmoothed = 1 - job_.label_smoothing, half = job_.label_smoothing / 2;
        if (tile.kept[i] == tile.hidden || x != x) return false;
        found.y = y * unsmoothed + half;
        found.rest = (1 - y) * unsmoothed + half;
        Wide weight = wide_product(job_.weight, job_.weights, start + i), share = wide(1), other_share = wide(1);
        if (job_.of_p_t) {
            weight = weight * wide(job_.share * found.y + job_.other_share * found.rest);
        } else {
            share = wide(job_.share);
            other_share = wide(job_.other_share);
        }
        const Wide pos_weight = wide_product(&job_.pos_weight, job_.pos_weight ? 1 : 0, start + i);
        const Wide neg_weight = wide_product(&job_.neg_weight, job_.neg_weight ? 1 : 0, start + i);
        found.positive = wide(found.y) * share * pos_weight * weight;
        found.negative = wide(found.rest) * other_share * neg_weight * weight;
        return is_finite(found.positive) && is_finite(found.negative);
    }

    // Has a frame of its own, which two others would hold at once: a thread may have 64 KiB of stack.
    template <class Tile>
    BINXENT_APART bool compute(const Tile& tile, int64_t start, int64_t i, WideBranch& found) const {
        Coefficients of;
        if (!read_coefficients(tile, start, i, of)) return false;
        found = wide_element(job_, widen(tile.x[i]), of.y, of.rest, of.positive, of.negative);
        return true;
    }

    // Whether an input that is far is extreme without any weight.
    bool has_tail() const { return operands_ == 0 && tighter_.is_outside_far(1); }

    bool any_far(const T* x, int64_t n) const {
        return job_.input == Input::logits ? any_outside(x, n, T(0), stands_.far) : any_outside(x, n, stands_.far, T(1));
    }

    // Whether is_far is false of each logit, with a focal power in double. A few of which it is false may count as far.
    bool none_far_by_power(const T* x, int64_t n) const {
        const double limit = 599 / (job_.largest_power() + 1) - 1;
        return limit > 0 && !any_outside(x, n, T(0), T(limit));
    }

  public:
    Extremes(const Job& job, const Factor& factor)
        : job_(job),
          factor_(factor),
          stands_(job),
          small_(job.divisor_exponent < 0 || (job.divisor_exponent == 0 && absolute(job.divisor) < 1) ? S::small : 0) {
        for (; operands_ < job.weights; ++operands_) operand_[operands_] = &job.weight[operands_];
        if (job.pos_weight) operand_[operands_++] = &job.pos_weight;
        if (job.neg_weight) operand_[operands_++] = &job.neg_weight;
        loss_ = gradient_ = tighter_ = Bounds(job, stands_, operands_, 0, false);
        if (!job.gradient) return;
        gradient_ = Bounds(job, stands_, operands_, factor.is_ordinary() ? factor.exponent() : 0, factor.after > 1);
        gradient_.every |= !factor.is_ordinary();
        tighter_ = gradient_;
    }

    // Which operands these are, if there are any.
    int of_pos_weight() const { return job_.weights; }
    int of_neg_weight() const { return job_.weights + (job_.pos_weight ? 1 : 0); }

    // Whether no element of the job can be extreme. Their sum still can.
    bool none() const { return operands_ == 0 && !any_power_ && !tighter_.every && !has_tail(); }

    // Looks at operand k once and for all if it is a broadcast row.
    template <class Reader>
    void settle(int k, Reader& reader) {
        const int64_t period = reader.period();
        if (!period) return;
        const T* const row = reader.tile(0, period);
        settled_[k] = !may_be_outside(k, row, 0, period);
        tame_[k] = !is_outside(k, row, 0, period);
    }

    // Marks the extreme elements of a tile whose weights, pos_weight and neg_weight have these values.
    void find(const T* x, int64_t start, int64_t n, const T* const* values) {
        const bool logits = job_.input == Input::logits;
        found_ = tighter_.every || (any_power_ && !(logits && none_far_by_power(x, n))) || (has_tail() && any_far(x, n));
        bool near = logits;  // until an input of the tile is found to be far
        for (int k = 0, looked = false; k < operands_ && !found_; ++k) {
            if (settled_[k] || !(tame_[k] || may_be_outside(k, values[k], start, n))) continue;
            if (near && !looked) near = !any_far(x, n), looked = true;
            found_ = !near || !(tame_[k] || !is_outside(k, values[k], start, n));
        }
        if (found_) mark(x, start, n);
    }

    // Replaces what the loops have made of them.
    template <class Tile>
    void mend(const Tile& tile, int64_t start, int64_t n) const {
        WideBranch right;
        for (int64_t i = 0; found_ && i < n; ++i) {
            if (!(mark_[i] & (in_loss | in_gradient)) || !compute(tile, start, i, right)) continue;
            if (mark_[i] & in_loss) tile.loss[i] = T(number(right.loss));
            if (mark_[i] & in_gradient) tile.gradient[i] = T(number(right.slope * factor_.whole));
        }
    }

    // Does the same for second derivatives, which stand what the gradients stand.
    template <class Tile, class Curvature>
    void mend_curvature(const Tile& tile, int64_t start, int64_t n, Curvature curvature) const {
        Coefficients of;
        for (int64_t i = 0; found_ && i < n; ++i)
            if ((mark_[i] & in_gradient) && read_coefficients(tile, start, i, of))
                tile.hessian[i] =
                    T(number(curvature(job_, tile.x[i], of.y, of.rest, of.positive, of.negative) * factor_.whole));
    }

    // Adds the tile's losses to the sum, and those that T does not hold to `beyond`.
    template <class Tile, class Sum>
    void add(const Tile& tile, int64_t start, int64_t n, Sum& sum, WideSum& beyond) const {
        bool marked = false;
        for (int64_t i = 0; found_ && i < n; ++i) marked |= mark_[i] & in_loss;
        if (!marked) {
            if (sum.add(tile.loss, n, S::large) && (small_ == 0 || sum.any_from(small_, n))) return;
            sum.take_back(n);
        }
        T rest[tile_size];
        WideBranch right;
        for (int64_t i = 0; i < n; ++i) {
            const T loss = tile.loss[i], size = absolute(loss);
            // What is no probability has been made NaN, and the sum shows it.
            const bool apart = loss == loss && ((marked && mark_[i] & in_loss) || size < small_ || size > S::large);
            const bool is_beyond = apart && compute(tile, start, i, right);
            if (is_beyond) beyond.add(right.loss);
            rest[i] = is_beyond ? T(0) : loss;
        }
        sum.add(rest, n);
    }
};

}  // namespace binxent::BINXENT_ISA
