// The pass that counts a chunk for a report.
//
// A first loop, which becomes vector code, finds the place of each element in the tables. A second one, which cannot, adds
// the element there.
#include <cstdlib>

#include "convert.h"
#include "core/chunk.h"
#include "core/memory.h"
#include "math.h"
#include "table.h"

namespace binxent::BINXENT_ISA {
namespace {

constexpr int64_t piece = counted_at_once;

// Returns elements [start, start + n) as T: where they lie, or converted into the buffer.
template <class T>
const T* load(const Chunk::Array& array, int64_t start, int64_t n, T* buffer) {
    constexpr DType own = sizeof(T) == 8 ? DType::float64 : DType::float32;
    if (array.dtype == own && reinterpret_cast<uintptr_t>(array.data) % sizeof(T) == 0)
        return reinterpret_cast<const T*>(array.data) + start;
    load_line(array.dtype, array.line().from(start), n, buffer);
    return buffer;
}

// Returns a number that rises with the score and changes with each of its bits. It counts outward from a logit of 0, or, as
// a probability has two tails, from 1/2, above which 1 − q is exact. binxent.report.score_bins computes the same.
template <class T>
inline uint32_t score_key(T x, bool probability) {
    const bool upper = probability ? x >= T(0.5) : x >= 0;
    const float magnitude = probability ? float(upper ? T(1) - x : x) : float(absolute(x));
    const uint32_t bits = bits_as<uint32_t>(magnitude);
    const uint32_t outward = probability ? bits_as<uint32_t>(0.5f) - bits : bits;  // from the middle
    return upper ? 0x80000000u + outward : 0x7fffffffu - outward;
}

template <class T>
class Counter {
    Chunk& chunk_;
    const int64_t period_;
    int32_t* const cell_;   // where the cells of an element's label begin
    int32_t* const score_;  // likewise in the scores

    T x_buffer_[piece], target_buffer_[piece], loss_buffer_[piece];
    int32_t cell_at_[piece], score_at_[piece], probability_[piece];

    struct Found {
        bool soft, x_refused, without_bin;
    };

    template <bool probabilities, bool want_loss>
    Found find_places(int64_t n, const T* __restrict x, const T* __restrict target, const int32_t* __restrict cell,
                      const int32_t* __restrict score) {
        const T threshold = T(chunk_.threshold), bins = T(chunk_.calibration_bins);
        const int32_t last_bin = int32_t(chunk_.calibration_bins) - 1;
        const T most = probabilities ? T(1) : T(__builtin_inf()), least = probabilities ? T(0) : -most;
        const int32_t score_bins = chunk_.score_bins;
        const int32_t* __restrict pages = chunk_.pages;
        const int bin_shift = chunk_.bin_shift;
        T* __restrict loss = loss_buffer_;
        int32_t* __restrict cell_at = cell_at_;
        int32_t* __restrict score_at = score_at_;
        int32_t* __restrict probability = probability_;
        int32_t soft = 0, refused = 0, without_bin = 0;
        for (int64_t i = 0; i < n; ++i) {
            T p = x[i];
            if constexpr (!probabilities) {
                const Logit<T> logit(x[i]);
                p = sigmoid(logit, x[i]);
                if constexpr (want_loss) loss[i] = logit_loss(logit, x[i] < 0 ? target[i] : T(1) - target[i], T(1));
            } else if constexpr (want_loss) {
                loss[i] = probability_loss(p, target[i], T(1) - target[i]);
            }
            const int32_t positive = target[i] > T(0.5), predicted = x[i] > threshold;
            const int32_t bin = int32_t(p * bins);
            cell_at[i] = cell[i] + ((bin < last_bin ? bin : last_bin) << 2) + (predicted << 1) + positive;
            const uint32_t key = score_key(x[i], probabilities);
            const int32_t page = pages[key >> page_shift];
            without_bin |= page;  // whose sign it has
            score_at[i] = score[i] + page + int32_t((key & ((1u << page_shift) - 1)) >> bin_shift) +
                          (positive ? score_bins : 0);
            probability[i] = int32_t(p * T(1 << probability_bits) + T(0.5));
            soft |= int32_t(target[i] != T(positive));
            refused |= int32_t(!(x[i] >= least)) | int32_t(!(x[i] <= most));
        }
        return {soft != 0, refused != 0, without_bin < 0};
    }

    Found find_places(int64_t n, const T* x, const T* target, const int32_t* cell, const int32_t* score) {
        const bool want_loss = !chunk_.loss.data;
        if (chunk_.input == Input::probabilities)
            return want_loss ? find_places<true, true>(n, x, target, cell, score)
                             : find_places<true, false>(n, x, target, cell, score);
        return want_loss ? find_places<false, true>(n, x, target, cell, score)
                         : find_places<false, false>(n, x, target, cell, score);
    }

    // Meanwhile it asks for the memory of the next piece: the hardware's prefetcher stops at the border of a page.
    template <bool all>
    void add_places(int64_t start, int64_t n, const uint8_t* known) {
        uint64_t* __restrict cells = chunk_.cells;
        uint32_t* __restrict scores = chunk_.scores;
        const Line next_x = chunk_.x.line().from(start + n), next_target = chunk_.target.line().from(start + n);
        constexpr int64_t step = 16;
        for (int64_t first = 0; first < n; first += step) {
            __builtin_prefetch(next_x[first], 0, 2);
            __builtin_prefetch(next_target[first], 0, 2);
            const int64_t last = first + step < n ? first + step : n;
            for (int64_t i = first; i < last; ++i) {
                if (!all && !known[i]) continue;
                cells[cell_at_[i]] += (uint64_t(1) << cell_count_shift) + uint64_t(probability_[i]);
                ++scores[score_at_[i]];
            }
        }
    }

  public:
    explicit Counter(Chunk& chunk)
        : chunk_(chunk),
          period_(loss_sums(chunk.labels)),
          cell_(static_cast<int32_t*>(allocate(2 * period_ * sizeof(int32_t)))),
          score_(cell_ + period_) {
        for (int64_t i = 0; i < period_; ++i) {
            const int32_t label = int32_t(i % chunk.labels);
            cell_[i] = label * int32_t(chunk.calibration_bins) * 4;
            score_[i] = label * (chunk.score_bins * 2 + score_padding);
        }
    }
    Counter(const Counter&) = delete;
    ~Counter() {
        free(cell_);
    }

    void add_losses() {
        // Knuth's sum: what rounding takes off a sum is added up too, so that the order of chunks hardly matters.
        for (int64_t i = 0; i < period_; ++i) {
            double& sum = chunk_.loss_sum[i % chunk_.labels];
            const double loss = chunk_.loss_waiting[i], next = sum + loss, part = next - sum;
            const double lost = (sum - (next - part)) + (loss - part);
            chunk_.loss_lost[i % chunk_.labels] += lost == lost ? lost : 0;  // an infinite loss is its own sum
            sum = next;
        }
    }

    // Counts elements [start, start + n), which lie in one period, or returns a flag of job.h and counts none of them.
    unsigned add(int64_t start, int64_t n) {
        const int64_t phase = start % period_;
        const T* const x = load(chunk_.x, start, n, x_buffer_);
        const T* const target = load(chunk_.target, start, n, target_buffer_);
        const uint8_t* const known = chunk_.known ? chunk_.known + start : nullptr;

        const Found found = find_places(n, x, target, cell_ + phase, score_ + phase);
        if (found.x_refused) return input_out_of_range;
        if (found.without_bin) return score_without_bin;
        if (found.soft) {
            for (int64_t i = 0; i < n; ++i)
                if (!(target[i] >= 0 && target[i] <= 1)) return target_out_of_range;
            for (int64_t i = 0; i < n; ++i)
                if (!known || known[i]) chunk_.softness[cell_at_[i] / 4] += double(target[i]) - (cell_at_[i] & 1);
        }
        const T* const loss = chunk_.loss.data ? load(chunk_.loss, start, n, loss_buffer_) : loss_buffer_;
        double* const sums = chunk_.loss_waiting + phase;
        if (known) {
            for (int64_t i = 0; i < n; ++i) sums[i] += known[i] ? double(loss[i]) : 0.0;
            add_places<false>(start, n, known);
        } else {
            for (int64_t i = 0; i < n; ++i) sums[i] += double(loss[i]);
            add_places<true>(start, n, nullptr);
        }
        return 0;
    }

    unsigned add_all() {
        const int64_t size = chunk_.rows * chunk_.labels;
        int64_t& start = chunk_.done;
        while (start < size) {
            const int64_t rest = period_ - start % period_, left = size - start < rest ? size - start : rest;
            const int64_t n = left <= piece ? left : left < 2 * piece ? left / 2 : piece;
            if (const unsigned flag = add(start, n)) return flag;
            start += n;
        }
        add_losses();
        return 0;
    }
};

}  // namespace

unsigned count(Chunk& chunk) {
    const bool in_double = chunk.x.dtype == DType::float64 || chunk.target.dtype == DType::float64;
    return in_double ? Counter<double>(chunk).add_all() : Counter<float>(chunk).add_all();
}

}  // namespace binxent::BINXENT_ISA
