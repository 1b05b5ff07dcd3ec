// The pass that computes losses and gradients.
#include <cstdint>
#include <type_traits>

#include "extremes.h"
#include "loops.h"
#include "mode.h"
#include "operands.h"
#include "rows.h"
#include "sparse_rows.h"
#include "sums.h"
#include "table.h"

namespace binxent::BINXENT_ISA {
namespace {

bool is_apart(const View& output, const View& operand) { return output.data != operand.data; }

// For each tile, calls compute(start, n, loss, gradient, sum, beyond), which adds the losses to the two sums, and writes what
// it made.
template <class T, class Compute>
inline void for_each_tile(const Job& job, int64_t first_block, int64_t last_block, Space& space, Compute compute) {
    const int64_t first = job.begin_of(first_block), size = job.size_of(first_block, last_block);
    // A gradient in place of the logits is not made there: a loop reads logits after it has written gradients.
    Writer<T> losses(job.loss, first, size, true, space);
    Writer<T> gradients(job.gradient, first, size, is_apart(job.gradient, job.x), space);
    BlockSum sum;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = job.end_of(block);
        WideSum beyond;
        for (int64_t start = job.begin_of(block); start < end; start += tile_size) {
            const int64_t n = end - start < tile_size ? end - start : tile_size;
            compute(start, n, losses.tile(start), gradients.tile(start), sum, beyond);
            gradients.write(start, n);
            losses.write(start, n);
        }
        if (job.value) job.block_sum[block] = joined(sum, beyond);
    }
}

// Returns a tile of ones: the weights where there are none, and what marks every element as kept.
template <class T>
const T* take_ones(int64_t size, Space& space) {
    T* const ones = space.take<T>(tile_of(size));
    for (int64_t i = 0; i < tile_of(size); ++i) ones[i] = T(1);
    return ones;
}

// Target is the reader of `targets`.
template <class T, class Target, class Targets>
unsigned run(const Job& job, const Targets& targets, int64_t first_block, int64_t last_block, Space& space) {
    const int64_t first = job.begin_of(first_block), size = job.size_of(first_block, last_block);
    const bool selects = job.selects();
    const bool selects_by_target = job.ignores && !job.mask && job.ignore_index == job.ignore_index;
    const bool saturates =
        job.gradient && job.gradient.dtype == DType::float16 && job.input == Input::probabilities;
    const Factor factor(job);
    const Terms<T> terms(job);
    Extremes<T> extremes(job, factor);
    const bool may_be_extreme = !extremes.none();

    Reader<T> x(job.x, first, size, space);
    Target target(targets, first, size, space);
    Reader<T> pos_weight(job.pos_weight, first, size, space), neg_weight(job.neg_weight, first, size, space);
    Weights<T> weights(job, first, size, space);
    Kept<T> kept(job, first, size, space);
    for (int k = 0; k < job.weights; ++k) extremes.settle(k, weights.reader(k));
    if (job.pos_weight) extremes.settle(extremes.of_pos_weight(), pos_weight);
    if (job.neg_weight) extremes.settle(extremes.of_neg_weight(), neg_weight);
    const T* const ones = take_ones<T>(size, space);

    constexpr bool is_sparse = std::is_same_v<Target, SparseReader<T>>;
    const Step<T> step = choose<T>(job);
    [[maybe_unused]] const Step<T> for_negatives = is_sparse ? choose_for_negatives<T>(job, step, T(factor.within)) : step;
    unsigned flags = 0;
    for_each_tile<T>(job, first_block, last_block, space, [&](int64_t start, int64_t n, T* loss, T* gradient,
                                                               BlockSum& sum, WideSum& beyond) BINXENT_ALWAYS {
        Tile<T> tile{x.tile(start, n), target.tile(start, n), ones, ones, ones, ones, T(0), loss, gradient};
        if (job.weights > 0) tile.weight = weights.tile(start, n);
        if (job.pos_weight) tile.pos_weight = pos_weight.tile(start, n);
        if (job.neg_weight) tile.neg_weight = neg_weight.tile(start, n);
        if (selects_by_target) {
            tile.kept = tile.target;
            tile.hidden = T(job.ignore_index);
        } else if (selects) {
            tile.kept = kept.tile(tile.target, start, n);
        }
        unsigned outside = 0;
        if (job.input == Input::probabilities) {
            if (out_of_range(n, tile.x, tile.kept, tile.hidden)) outside |= input_out_of_range;
            if ((!job.any_target || job.checks_targets) && out_of_range(n, tile.target, tile.kept, tile.hidden)) outside |= target_out_of_range;
        }
        if (job.checks_targets) outside |= wrong_operands(job, n, tile, start, kept);
        if constexpr (is_sparse)
            (target.is_empty() ? for_negatives : step)(n, tile, terms, T(factor.within));
        else
            step(n, tile, terms, T(factor.within));
        if (job.gradient && factor.after != 1)
            for (int64_t i = 0; i < n; ++i) gradient[i] = T(gradient[i] * factor.after);
        if (job.gradient && selects && !factor.is_finite())  // 0 times infinity is no 0
            for (int64_t i = 0; i < n; ++i) gradient[i] = tile.kept[i] != tile.hidden ? gradient[i] : T(0);
        if (may_be_extreme) {
            weights.values[extremes.of_neg_weight()] = tile.neg_weight;
            if (job.pos_weight) weights.values[extremes.of_pos_weight()] = tile.pos_weight;
            extremes.find(tile.x, start, n, weights.values);
            extremes.mend(tile, start, n);
        }
        if (outside & (input_out_of_range | target_out_of_range)) spoil_out_of_range(n, tile, job);
        flags |= outside;
        if (saturates) saturate(n, gradient);
        if (job.value) extremes.add(tile, start, n, sum, beyond);
    });
    return flags;
}

// Whether the only operands are packed bfloat16 logits and targets. They are widened among the arithmetic, which takes a
// sixth less time than to widen them into a buffer before.
bool is_plain_bfloat16(const Job& job) {
    return job.input == Input::logits && is_packed<BFloat16>(job.x) && is_packed<BFloat16>(job.target) &&
           job.weights == 0 && !job.pos_weight && !job.neg_weight && !job.has_share() && !job.is_family() &&
           !job.checks_targets && job.label_smoothing == 0 && !job.in_double() && !job.selects() &&
           Factor(job).after == 1 && Extremes<float>(job, Factor(job)).none();
}

auto choose_plain_bfloat16(const Job& job) {
    using B = BFloat16;
    constexpr Kind kind = Kind::plain;
    if (job.gamma > 0)
        return job.gradient ? focal_tile<float, FocalLogit<float>, false, true, B>
                            : focal_tile<float, FocalLogit<float>, false, false, B>;
    const bool want_loss = job.loss || job.value;
    return !job.gradient ? logits_tile<float, kind, false, true, false, B>
           : want_loss   ? logits_tile<float, kind, false, true, true, B>
                         : logits_tile<float, kind, false, false, true, B>;
}

void run_plain_bfloat16(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    const auto* const x = reinterpret_cast<const BFloat16*>(job.x.data);
    const auto* const target = reinterpret_cast<const BFloat16*>(job.target.data);
    const Factor factor(job);
    const Terms<float> terms(job);
    const Extremes<float> extremes(job, factor);
    const float* const ones = take_ones<float>(job.size_of(first_block, last_block), space);
    const auto step = choose_plain_bfloat16(job);
    const auto compute = [&](int64_t start, int64_t n, float* loss, float* gradient, BlockSum& sum, WideSum& beyond) {
        const Tile<float, BFloat16> tile{x + start, target + start, ones, ones, ones, ones, 0, loss, gradient};
        step(n, tile, terms, float(factor.within));
        if (job.value) extremes.add(tile, start, n, sum, beyond);
    };
    for_each_tile<float>(job, first_block, last_block, space, compute);
}

template <class T>
int64_t space_to_run_in(const Job& job, int64_t n) {
    return Reader<T>::space(job.x, n) + Reader<T>::space(job.target, n) + SparseReader<T>::space(job.sparse_target, n) +
           Reader<T>::space(job.pos_weight, n) + Reader<T>::space(job.neg_weight, n) + Weights<T>::space(job, n) + Kept<T>::space(job, n) +
           Space::size<T>(tile_of(n)) +  // ones
           Writer<T>::space(job.loss, n, true) + Writer<T>::space(job.gradient, n, is_apart(job.gradient, job.x));
}

template <class T>
unsigned run(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    if (job.sparse_target)
        return run<T, SparseReader<T>>(job, job.sparse_target, first_block, last_block, space);
    return run<T, Reader<T>>(job, job.target, first_block, last_block, space);
}

}  // namespace

int64_t space_to_run(const Job& job, int64_t n) {
    return job.in_double() ? space_to_run_in<double>(job, n) : space_to_run_in<float>(job, n);
}

unsigned run_blocks(const Job& job, int64_t first_block, int64_t last_block, char* workspace) noexcept {
    if (first_block == last_block) return 0;  // an empty array has no memory that could be read
    const DefaultRounding mode;
    Space space(workspace);
    if (is_plain_bfloat16(job)) {
        run_plain_bfloat16(job, first_block, last_block, space);
        return 0;
    }
    return job.in_double() ? run<double>(job, first_block, last_block, space)
                           : run<float>(job, first_block, last_block, space);
}

}  // namespace binxent::BINXENT_ISA
