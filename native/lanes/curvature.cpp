// The pass that computes gradients and second derivatives of logits, and losses if they are wanted.
#include "curvature.h"

#include <cstdint>

#include "extremes.h"
#include "mode.h"
#include "operands.h"
#include "rows.h"
#include "sparse_rows.h"
#include "sums.h"
#include "table.h"
#include "wide_curvature.h"

namespace binxent::BINXENT_ISA {
namespace {

// The focal power amplifies what was rounded before it, and so does a margin that p is next to.
bool is_in_double(const Job& job) { return job.in_double() || job.is_focal(); }

// A gradient in place of the logits is not made there: a loop reads logits after it has written gradients.
bool is_apart(const Job& job) { return job.gradient.data != job.x.data; }

// Target is the reader of `targets`.
template <class T, class Target, class Targets>
unsigned run(const Job& job, const Targets& targets, int64_t first_block, int64_t last_block, Space& space) {
    const int64_t first = job.begin_of(first_block), size = job.size_of(first_block, last_block);
    const bool selects = job.selects();
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
    T* const ones = space.take<T>(tile_of(size));
    for (int64_t i = 0; i < tile_of(size); ++i) ones[i] = T(1);
    Writer<T> losses(job.loss, first, size, true, space), hessians(job.hessian, first, size, true, space);
    Writer<T> gradients(job.gradient, first, size, is_apart(job), space);

    const CurvedStep<T> step = choose_curved<T>(job);
    BlockSum sum;
    unsigned flags = 0;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = job.end_of(block);
        WideSum beyond;
        for (int64_t start = job.begin_of(block); start < end; start += tile_size) {
            const int64_t n = end - start < tile_size ? end - start : tile_size;
            CurvedTile<T> tile{{x.tile(start, n), target.tile(start, n), ones, ones, ones, ones, T(0), losses.tile(start),
                                gradients.tile(start)},
                               hessians.tile(start)};
            if (job.weights > 0) tile.weight = weights.tile(start, n);
            if (job.pos_weight) tile.pos_weight = pos_weight.tile(start, n);
            if (job.neg_weight) tile.neg_weight = neg_weight.tile(start, n);
            if (selects) tile.kept = kept.tile(tile.target, start, n);
            if (job.checks_targets) flags |= wrong_operands(job, n, tile, start, kept);
            step(n, tile, terms, T(factor.within));
            for (int64_t i = 0; factor.after != 1 && i < n; ++i) {
                tile.gradient[i] = T(tile.gradient[i] * factor.after);
                tile.hessian[i] = T(tile.hessian[i] * factor.after);
            }
            for (int64_t i = 0; selects && !factor.is_finite() && i < n; ++i)  // 0 times infinity is no 0
                if (tile.kept[i] == tile.hidden) tile.gradient[i] = tile.hessian[i] = T(0);
            if (may_be_extreme) {
                weights.values[extremes.of_neg_weight()] = tile.neg_weight;
                if (job.pos_weight) weights.values[extremes.of_pos_weight()] = tile.pos_weight;
                extremes.find(tile.x, start, n, weights.values);
                extremes.mend(tile, start, n);
                extremes.mend_curvature(tile, start, n, wide_curvature);
            }
            if (job.value && may_be_extreme)
                extremes.add(tile, start, n, sum, beyond);
            else if (job.value)
                sum.add(tile.loss, n);
            hessians.write(start, n);
            gradients.write(start, n);
            losses.write(start, n);
        }
        if (job.value) job.block_sum[block] = joined(sum, beyond);
    }
    return flags;
}

template <class T>
int64_t space_to_curve_in(const Job& job, int64_t n) {
    return Reader<T>::space(job.x, n) + Reader<T>::space(job.target, n) + SparseReader<T>::space(job.sparse_target, n) +
           Reader<T>::space(job.pos_weight, n) + Reader<T>::space(job.neg_weight, n) + Weights<T>::space(job, n) + Kept<T>::space(job, n) +
           Space::size<T>(tile_of(n)) +  // ones
           Writer<T>::space(job.loss, n, true) + Writer<T>::space(job.hessian, n, true) +
           Writer<T>::space(job.gradient, n, is_apart(job));
}

template <class T>
unsigned run(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    if (job.sparse_target) return run<T, SparseReader<T>>(job, job.sparse_target, first_block, last_block, space);
    return run<T, Reader<T>>(job, job.target, first_block, last_block, space);
}

}  // namespace

int64_t space_to_curve(const Job& job, int64_t n) {
    return is_in_double(job) ? space_to_curve_in<double>(job, n) : space_to_curve_in<float>(job, n);
}

unsigned curve_blocks(const Job& job, int64_t first_block, int64_t last_block, char* workspace) noexcept {
    if (first_block == last_block) return 0;
    const DefaultRounding mode;
    Space space(workspace);
    return is_in_double(job) ? run<double>(job, first_block, last_block, space)
                             : run<float>(job, first_block, last_block, space);
}

}  // namespace binxent::BINXENT_ISA
