// The pass that measures what the divisor counts.
#include <cstdint>

#include "extremes.h"
#include "mode.h"
#include "operands.h"
#include "sparse_rows.h"
#include "sums.h"
#include "table.h"

namespace binxent::BINXENT_ISA {
namespace {

// Counts how many of n packed elements are not `value`, without converting them.
template <class S>
int64_t count_unlike(const char* from, int64_t n, double value) {
    constexpr bool integer = S(0.5) == S(0);
    constexpr double lowest = integer ? (S(-1) < S(0) ? -double(uint64_t(1) << (8 * sizeof(S) - 1)) : 0) : -1e30;
    constexpr double highest = integer ? (S(-1) < S(0) ? -lowest - 1 : double((uint64_t(1) << (8 * sizeof(S) - 1)) * 2 - 1)) : 1e30;
    if (value < lowest || value > highest) return n;
    const S unlike = S(value);
    const S* __restrict v = reinterpret_cast<const S*>(from);
    int64_t count = 0;
    constexpr int64_t step = 512 / sizeof(S), ahead = 4096 / sizeof(S), line = cache_line / sizeof(S);
    for (int64_t start = 0; start < n; start += step) {
        for (int64_t i = 0; i < step; i += line) __builtin_prefetch(v + start + ahead + i, 0, 3);
        const int64_t end = start + step < n ? start + step : n;
        int kept = 0;
        for (int64_t i = start; i < end; ++i) kept += v[i] != unlike;
        count += kept;
    }
    return count;
}

// Does the same for elements [start, start + n) of a view, if it is packed and of a common type; otherwise returns −1.
int64_t count_packed(const View& v, int64_t start, int64_t n, double value) {
    const int64_t size = element_size(v.dtype);
    if (v.dims != 1 || v.stride[0] != size || reinterpret_cast<uintptr_t>(v.data) % size != 0) return -1;
    const char* const from = Line{v.data, size}[start];
    switch (v.dtype) {
        case DType::boolean: {  // any byte but 0 is 1
            const int64_t ones = count_unlike<uint8_t>(from, n, 0);
            return value == 0 ? ones : value == 1 ? n - ones : n;
        }
        case DType::uint8: return count_unlike<uint8_t>(from, n, value);
        case DType::int8: return count_unlike<int8_t>(from, n, value);
        case DType::int32: return count_unlike<int32_t>(from, n, value);
        case DType::float32: return count_unlike<float>(from, n, value);
        default: return -1;
    }
}

// Whether a weight of what is kept is neither 0 nor of a size between these two.
template <class T>
bool any_kept_outside(const T* const* weights, int count, const T* kept, int64_t n, double least, double most) {
    for (int k = 0; k < count; ++k)
        for (int64_t i = 0; i < n; ++i) {
            const double size = absolute(double(weights[k][i]));
            if (kept[i] != 0 && (!(size <= most) || (size < least && size != 0))) return true;
        }
    return false;
}

// Writes, for each block, the sum of the weights of what is kept, or how much is kept.
// Target is the reader of `targets`, if a target is read.
template <class T, class Target, class Targets>
void measure(const Job& job, const Targets& targets, int64_t first_block, int64_t last_block, Space& space) {
    const int64_t first = job.begin_of(first_block), size = job.size_of(first_block, last_block);
    const bool by_weights = job.divided_by == Divisor::weights && job.weights > 0;
    Target target(targets, first, size, space);
    Weights<T> weights(job, first, by_weights ? size : 0, space);
    Kept<T> kept(job, first, size, space);
    T* const counted = space.take<T>(tile_of(size));
    const double most = power_of_two(Stands<double>::coefficient / (job.weights > 0 ? job.weights : 1)), least = 1 / most;
    BlockSum sum;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = job.end_of(block);
        int64_t count = 0, start = job.begin_of(block);
        WideSum beyond;
        if (!by_weights && !(job.mask && job.ignores)) {
            const View& selecting = job.mask ? job.mask : job.target;
            const double hidden = job.mask ? 0 : job.ignore_index;
            // Where nothing selects, the target is not looked at: its zeros would count as ignored.
            const int64_t found = !job.selects()                   ? end - start
                                  : hidden == hidden && selecting ? count_packed(selecting, start, end - start, hidden)
                                                                  : -1;
            if (found >= 0) {
                job.block_sum[block] = {double(found), 0};
                continue;
            }
        }
        for (; start < end; start += tile_size) {
            const int64_t n = end - start < tile_size ? end - start : tile_size;
            const T* const targets_here = job.ignores ? target.tile(start, n) : nullptr;
            if (!by_weights) {
                count += kept.count(targets_here, start, n);
                continue;
            }
            const T* const kept_here = kept.tile(targets_here, start, n);
            const T* const weight = weights.tile(start, n);
            bool extreme = false;
            for (int k = 0; k < job.weights; ++k) extreme |= any_outside<T>(weights.values[k], n, least, most);
            // What is ignored may be anything, and must not change how the rest is added up.
            if (extreme) extreme = any_kept_outside(weights.values, job.weights, kept_here, n, least, most);
            for (int64_t i = 0; i < n; ++i) counted[i] = kept_here[i] != 0 && !extreme ? weight[i] : T(0);
            sum.add(counted, n);
            for (int64_t i = 0; extreme && i < n; ++i)
                if (kept_here[i] != 0) beyond.add(wide_product(job.weight, job.weights, start + i));
        }
        job.block_sum[block] = by_weights ? joined(sum, beyond) : Wide{double(count), 0};
    }
}

// A sum of weights is made in double. A count is exact in float, and so are the mask and the target that it looks at.
bool measures_in_double(const Job& job) { return job.in_double() || job.divided_by == Divisor::weights; }

template <class T>
int64_t space_to_measure_in(const Job& job, int64_t n) {
    return Reader<T>::space(job.target, n) + SparseReader<T>::space(job.sparse_target, n) +
           Weights<T>::space(job, n) + Kept<T>::space(job, n) + Space::size<T>(tile_of(n));  // counted
}

template <class T>
void measure(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    const View none = View();
    if (job.ignores && job.sparse_target)
        measure<T, SparseReader<T>>(job, job.sparse_target, first_block, last_block, space);
    else
        measure<T, Reader<T>>(job, job.ignores ? job.target : none, first_block, last_block, space);
}

}  // namespace

int64_t space_to_measure(const Job& job, int64_t n) {
    return measures_in_double(job) ? space_to_measure_in<double>(job, n) : space_to_measure_in<float>(job, n);
}

void measure_blocks(const Job& job, int64_t first_block, int64_t last_block, char* workspace) noexcept {
    if (first_block == last_block) return;
    const DefaultRounding mode;
    Space space(workspace);
    measures_in_double(job) ? measure<double>(job, first_block, last_block, space)
                            : measure<float>(job, first_block, last_block, space);
}

}  // namespace binxent::BINXENT_ISA
