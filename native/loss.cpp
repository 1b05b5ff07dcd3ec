// The fused loops. This file is compiled once for each instruction set, into a namespace of that name; it uses no
// template of the standard library, whose instances the linker would share between instruction sets.
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "convert.h"
#include "extremes.h"
#include "job.h"
#include "math.h"
#include "run.h"
#include "view.h"

namespace binxent::BINXENT_ISA {

unsigned count(Chunk&);  // of statistics.cpp

namespace {

constexpr int64_t max_period = 4096;    // of a broadcast row that is kept converted
constexpr int64_t lanes = 16, rows = 8;  // a group: `lanes` sums of `rows` terms, added as a tree
constexpr int64_t group = lanes * rows;
constexpr int64_t groups = block_size / group;

template <class T>
struct TypeOf;
template <>
struct TypeOf<float> {
    static constexpr DType dtype = DType::float32;
};
template <>
struct TypeOf<double> {
    static constexpr DType dtype = DType::float64;
};
template <>
struct TypeOf<BFloat16> {
    static constexpr DType dtype = DType::bfloat16;
};

// The caller's floating-point mode is put by and restored: XLA calls with subnormals flushed.
class DefaultRounding {
#if defined(__SSE2__)
    unsigned saved_ = _mm_getcsr();

  public:
    DefaultRounding() { _mm_setcsr(0x1f80); }
    ~DefaultRounding() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    uint64_t saved_;

  public:
    DefaultRounding() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(uint64_t(0)));
    }
    ~DefaultRounding() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#endif
};

// A transposed matrix, or several: what is next in order is far away in memory, but the next row is near. Element by
// element, each would fetch a cache line for itself.
bool is_transposed(const View& v) {
    if (v.dims < 2) return false;
    const int64_t column = v.stride[v.dims - 1], row = v.stride[v.dims - 2];
    return row != 0 && (column < 0 ? -column : column) >= 64 && (row < 0 ? -row : row) < (column < 0 ? -column : column);
}

// Moves elements [start, start + n) between such a view and a packed array, in squares of `side` rows and columns that
// read or write whole cache lines on either side. move(address, stride, count, packed) moves one column of a square.
constexpr int64_t side = 32;

template <class T, bool reading, class Move>
inline void transpose(const View& v, int64_t start, int64_t n, T* packed, Move move) {
    const int64_t columns = v.shape[v.dims - 1], matrix_rows = v.shape[v.dims - 2];
    const int64_t column_step = v.stride[v.dims - 1], row_step = v.stride[v.dims - 2];
    T square[side][side];
    for (int64_t done = 0; done < n;) {
        const int64_t position = start + done, column = position % columns;
        const int64_t rows_left = matrix_rows - position / columns % matrix_rows;
        int64_t count = column == 0 ? (n - done) / columns : 0;
        count = count < rows_left ? count : rows_left;
        count = count < side ? count : side;
        char* const corner = address_of(v, position);
        if (count < 2) {  // a row that the piece begins or ends in
            const int64_t length = columns - column < n - done ? columns - column : n - done;
            move(corner, column_step, length, packed + done);
            done += length;
            continue;
        }
        for (int64_t first = 0; first < columns; first += side) {
            const int64_t width = columns - first < side ? columns - first : side;
            T* const rows = packed + done + first;
            if (!reading)
                for (int64_t r = 0; r < count; ++r)
                    for (int64_t c = 0; c < width; ++c) square[c][r] = rows[r * columns + c];
            for (int64_t c = 0; c < width; ++c) move(corner + (first + c) * column_step, row_step, count, square[c]);
            if (reading)
                for (int64_t r = 0; r < count; ++r)
                    for (int64_t c = 0; c < width; ++c) rows[r * columns + c] = square[c][r];
        }
        done += count * columns;
    }
}

template <class T>
bool is_packed(const View& v) {
    return v.dims == 1 && v.stride[0] == sizeof(T) && v.dtype == TypeOf<T>::dtype &&
           reinterpret_cast<uintptr_t>(v.data) % sizeof(T) == 0;
}

constexpr int64_t tile_of(int64_t n) { return n < tile_size ? n : tile_size; }

// The memory that a thread works in, given out from its beginning on. workspace_size adds up what is taken.
class Space {
    char* next_;

  public:
    explicit Space(char* begin) : next_(begin) {}

    template <class T>
    static int64_t size(int64_t n) {
        return (n * int64_t(sizeof(T)) + cache_line - 1) / cache_line * cache_line;
    }

    template <class T>
    T* take(int64_t n) {
        T* const taken = reinterpret_cast<T*>(next_);
        next_ += size<T>(n);
        return taken;
    }
};

// Reads an operand tile by tile as T: in place where it lies so, else converted into a buffer.
template <class T>
class Reader {
    const View& view_;
    int64_t origin_ = 0;  // the element that stored_ begins with
    int64_t period_ = 0;
    T* stored_ = nullptr;  // a broadcast row, repeated so that a tile can start anywhere in it; or the whole piece
    T* buffer_ = nullptr;  // of a tile; null where the operand is read in place

    // How many elements a constant or a broadcast row has before it repeats; 0 for any other.
    static int64_t period(const View& view, int64_t n) {
        if (view.dims == 1 && view.stride[0] == 0) return 1;
        const bool row = view.dims == 2 && view.stride[0] == 0 && view.shape[1] <= max_period;
        return row && n > tile_size ? view.shape[1] : 0;
    }

  public:
    Reader(const View& view, int64_t first, int64_t n, Space& space) : view_(view) {
        if (!view || is_packed<T>(view)) return;
        T* const taken = space.take<T>(needed(view, n));
        if ((period_ = period(view, n))) {
            stored_ = taken;
            load_run(view.dtype, view.data, view.stride[view.dims - 1], period_, stored_);
            for (int64_t i = period_; i < period_ + tile_of(n); ++i) stored_[i] = stored_[i - period_];
        } else if (is_transposed(view)) {
            origin_ = first;
            stored_ = taken;
            transpose<T, true>(view, first, n, stored_, [&](char* from, int64_t stride, int64_t count, T* to) {
                load_run(view.dtype, from, stride, count, to);
            });
        } else {
            buffer_ = taken;
        }
    }
    Reader(const Reader&) = delete;

    // Elements of space, for a piece of n.
    static int64_t needed(const View& view, int64_t n) {
        if (!view || is_packed<T>(view)) return 0;
        const int64_t repeated = period(view, n);
        return repeated ? repeated + tile_of(n) : is_transposed(view) ? n : tile_of(n);
    }

    int64_t period() const { return period_; }  // of a broadcast row; 0 if there is none

    const T* tile(int64_t start, int64_t n) {
        if (period_) return stored_ + start % period_;
        if (stored_) return stored_ + (start - origin_);
        if (!buffer_) return reinterpret_cast<const T*>(view_.data) + start;
        for_each_run(view_, start, n, [&](const char* from, int64_t stride, int64_t first, int64_t count) {
            load_run(view_.dtype, from, stride, count, buffer_ + first);
        });
        return buffer_;
    }
};

bool is_apart(const View& output, const View& operand) { return output.data != operand.data; }

// Writes an output tile by tile: in place where T can lie there, else converted from a buffer; a transposed one at the
// end, as a whole.
template <class T>
class Writer {
    const View& view_;
    const int64_t origin_, size_;
    T* stored_ = nullptr;
    T* buffer_ = nullptr;  // of a tile; null where the output is made in place

  public:
    Writer(const View& view, int64_t first, int64_t n, bool may_be_direct, Space& space)
        : view_(view), origin_(first), size_(n) {
        if (const int64_t elements = needed(view, n, may_be_direct))
            (view && is_transposed(view) ? stored_ : buffer_) = space.take<T>(elements);
    }
    Writer(const Writer&) = delete;

    // Elements of space, for a piece of n. What is not asked for is made all the same.
    static int64_t needed(const View& view, int64_t n, bool may_be_direct) {
        if (may_be_direct && view && is_packed<T>(view)) return 0;
        return view && is_transposed(view) ? n : tile_of(n);
    }
    ~Writer() {
        if (!stored_) return;
        transpose<T, false>(view_, origin_, size_, stored_, [&](char* to, int64_t stride, int64_t count, T* from) {
            store_run(view_.dtype, to, stride, count, from);
        });
    }

    // Where the tile is made; then it is written.
    T* tile(int64_t start) {
        if (stored_) return stored_ + (start - origin_);
        return buffer_ ? buffer_ : reinterpret_cast<T*>(view_.data) + start;
    }
    void write(int64_t start, int64_t n) {
        if (!buffer_ || !view_) return;
        for_each_run(view_, start, n, [&](char* to, int64_t stride, int64_t first, int64_t count) {
            store_run(view_.dtype, to, stride, count, buffer_ + first);
        });
    }
};

// Sums of `lanes × groups` parts, added as a tree: a constant is summed without any error.
struct BlockSum {
    double part[groups][lanes];
    int64_t used = 0;

    template <class T>
    void add(const T* loss, int64_t n) {
        for (; n >= group; n -= group, loss += group) add_group(loss);
        if (n == 0) return;
        T rest[group] = {};
        memcpy(rest, loss, n * sizeof(T));
        add_group(rest);
    }

    template <class T>
    void add_group(const T* loss) {
        for (int64_t i = 0; i < lanes; ++i) {
            const T* r = loss + i;
            const T sum = ((r[0] + r[lanes]) + (r[2 * lanes] + r[3 * lanes])) +
                          ((r[4 * lanes] + r[5 * lanes]) + (r[6 * lanes] + r[7 * lanes]));
            part[used][i] = double(sum);
        }
        ++used;
    }

    // Whether the sums of the last n terms are no larger than `large`, and one of them is at least as large as `small`.
    bool is_within(int64_t n, double small, double large) const {
        const double* const sums = part[used - (n + group - 1) / group];
        const int64_t count = (n + group - 1) / group * lanes;
        unsigned beyond = 0, enough = small > 0 ? 0 : 1;
        for (int64_t i = 0; i < count; ++i) beyond |= unsigned(!(absolute(sums[i]) <= large));
        for (int64_t i = 0; small > 0 && i < count; ++i) enough |= unsigned(absolute(sums[i]) >= small);
        return beyond == 0 && enough != 0;
    }

    void take_back(int64_t n) { used -= (n + group - 1) / group; }

    double total() {
        for (int64_t step = groups / 2; step > 0; step /= 2)
            for (int64_t g = 0; g < step && g + step < used; ++g)
                for (int64_t i = 0; i < lanes; ++i) part[g][i] += part[g + step][i];
        for (int64_t step = lanes / 2; step > 0; step /= 2)
            for (int64_t i = 0; i < step; ++i) part[0][i] += part[0][i + step];
        used = 0;
        return part[0][0];
    }
};

Wide joined(BlockSum& sum, WideSum& beyond) {
    const double total = sum.total();
    if (beyond.empty) return {total, 0};
    beyond.add(wide(total));
    return beyond.total();
}

template <class T, class S = T>  // S: as x and the target lie
struct Tile {
    const S *x, *target;
    const T *weight, *pos_weight, *kept;
    T hidden;  // an element is ignored where `kept` is this
    T* loss;
    T* gradient;
};

// The target's share in a smoothed one: y·kept + half, and likewise 1 − y.
template <class T>
struct Smoothing {
    T kept, half;

    explicit Smoothing(double epsilon) : kept(T(1 - epsilon)), half(T(epsilon / 2)) {}
};

// What becomes of y and 1 − y before they are coefficients.
enum class Kind { plain, smoothed, pos_weighted, weighted };  // each with all that stands before it
constexpr bool has_weights(Kind kind) { return kind >= Kind::pos_weighted; }

// Calls element(i, positive, negative, lost) with the coefficients p·y·w and (1 − y)·w, and what rounding 1 − y lost of
// the latter, in a loop that vectorises.
template <class T, Kind kind, class S, class Element>
BINXENT_INLINE void for_each_element(int64_t n, const Tile<T, S>& tile, Smoothing<T> smoothing, Element element) {
    const S* __restrict targets = tile.target;
    const T* __restrict weights = tile.weight;
    const T* __restrict pos_weights = tile.pos_weight;
    for (int64_t start = 0; start < n; start += chunk) {
        prefetch_chunk(tile.x + start);
        prefetch_chunk(targets + start);
        const int64_t end = start + chunk < n ? start + chunk : n;
#pragma GCC ivdep  // outputs and operands are apart: there are too many for the compiler to check it
        for (int64_t i = start; i < end; ++i) {
            const T target = widen(targets[i]);
            T positive = target, negative = T(1) - target, lost = (T(1) - negative) - target;
            if constexpr (kind != Kind::plain) {
                positive = fma(positive, smoothing.kept, smoothing.half);
                negative = fma(negative, smoothing.kept, smoothing.half);
                lost = lost * smoothing.kept;
            }
            if constexpr (has_weights(kind)) positive = positive * pos_weights[i];
            if constexpr (kind == Kind::weighted) {
                positive = positive * weights[i];
                negative = negative * weights[i];
                lost = lost * weights[i];
            }
            element(i, positive, negative, lost);
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
void logits_tile(int64_t n, const Tile<T, S>& tile, Smoothing<T> smoothing, T factor) {
    const S* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, selects> shown{tile.kept, tile.hidden};
    for_each_element<T, kind>(n, tile, smoothing, [=](int64_t i, T positive, T negative, T lost) BINXENT_ALWAYS {
        const T x = widen(xs[i]);
        const T leading = is_negative(x) ? positive : negative;
        const T trailing = is_negative(x) ? negative : positive;
        const Logit<T> logit(x);
        if constexpr (want_loss)
            losses[i] = shown(i, logit_loss(logit, leading, has_weights(kind) ? leading + trailing : T(1)));
        if constexpr (want_gradient) {
            const T lost_leading = is_negative(x) || lost != lost ? T(0) : lost;  // NaN for an infinite target or weight
            gradients[i] = shown(i, logit_gradient(logit, x, leading, trailing, factor, lost_leading));
        }
    });
}

template <class T, Kind kind, bool selects, bool want_loss, bool want_gradient>
void probabilities_tile(int64_t n, const Tile<T>& tile, Smoothing<T> smoothing, T factor) {
    const T* __restrict qs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, selects> shown{tile.kept, tile.hidden};
    for_each_element<T, kind>(n, tile, smoothing, [=](int64_t i, T positive, T negative, T) BINXENT_ALWAYS {
        const T q = qs[i];
        if constexpr (want_loss)
            losses[i] = shown(i, fma(positive, clamped_minus_log(q), negative * clamped_minus_log1m(q)));
        if constexpr (want_gradient) gradients[i] = shown(i, probability_gradient(q, positive, negative, factor));
    });
}

// The focal power: always with weights, and both outputs, since the loop is bound by its arithmetic anyway.
void focal_tile(Input input, int64_t n, const Tile<double>& tile, Smoothing<double> smoothing, double gamma,
                double factor) {
    using T = double;
    const T* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    const Shown<T, true> shown{tile.kept, tile.hidden};
    if (input == Input::logits)
        for_each_element<T, Kind::weighted>(n, tile, smoothing, [=](int64_t i, T positive, T negative, T) BINXENT_ALWAYS {
            const Focal<T> one = focal_logit(xs[i], gamma), other = focal_logit(-xs[i], gamma);
            losses[i] = shown(i, weighted(positive, one.loss) + weighted(negative, other.loss));
            gradients[i] = shown(i, (positive * one.slope - negative * other.slope) * factor);
        });
    else
        for_each_element<T, Kind::weighted>(n, tile, smoothing, [=](int64_t i, T positive, T negative, T) BINXENT_ALWAYS {
            const FocalProbability<T> focal(xs[i], gamma);
            losses[i] = shown(i, positive * focal.loss + negative * focal.other_loss);
            gradients[i] = shown(i, focal.gradient(xs[i], positive, negative, factor));
        });
}

template <class T>
bool out_of_range(int64_t n, const T* v, const T* kept, T hidden) {
    unsigned outside = 0;
    for (int64_t i = 0; i < n; ++i) outside |= (unsigned(!(v[i] >= 0)) | unsigned(!(v[i] <= 1))) & unsigned(kept[i] != hidden);
    return outside != 0;
}

// For a caller that cannot raise: NaN for every element that is out of range.
template <class T>
void spoil_out_of_range(int64_t n, const Tile<T>& tile, bool any_target) {
    for (int64_t i = 0; i < n; ++i) {
        const T q = tile.x[i], target = tile.target[i];
        const bool fits = any_target || (target >= 0 && target <= 1);
        if (tile.kept[i] != tile.hidden && !(q >= 0 && q <= 1 && fits)) tile.loss[i] = tile.gradient[i] = T(__builtin_nan(""));
    }
}

// A float16 gradient of probabilities saturates: it is bounded by 1e12 in the other types.
template <class T>
void saturate_half(int64_t n, T* v) {
    for (int64_t i = 0; i < n; ++i) {
        const T low = v[i] < T(-65504) ? T(-65504) : v[i];
        v[i] = low > T(65504) ? T(65504) : low;
    }
}

template <class T, Kind kind, bool selects, bool want_loss, bool want_gradient>
void compute(Input input, int64_t n, const Tile<T>& tile, Smoothing<T> smoothing, T factor) {
    if (input == Input::logits)
        logits_tile<T, kind, selects, want_loss, want_gradient>(n, tile, smoothing, factor);
    else
        probabilities_tile<T, kind, selects, want_loss, want_gradient>(n, tile, smoothing, factor);
}

template <class T>
using Step = void (*)(Input, int64_t, const Tile<T>&, Smoothing<T>, T);

template <class T, Kind kind, bool selects>
Step<T> choose(bool want_loss, bool want_gradient) {
    return !want_gradient ? compute<T, kind, selects, true, false>
           : want_loss    ? compute<T, kind, selects, true, true>
                          : compute<T, kind, selects, false, true>;
}

template <class T, Kind kind>
Step<T> choose(bool selects, bool want_loss, bool want_gradient) {
    return selects ? choose<T, kind, true>(want_loss, want_gradient) : choose<T, kind, false>(want_loss, want_gradient);
}

void compute_tile(const Job& job, Step<float> step, int64_t n, const Tile<float>& tile, Smoothing<float> smoothing,
                  float factor) {
    step(job.input, n, tile, smoothing, factor);
}

void compute_tile(const Job& job, Step<double> step, int64_t n, const Tile<double>& tile, Smoothing<double> smoothing,
                  double factor) {
    if (job.gamma > 0)
        focal_tile(job.input, n, tile, smoothing, job.gamma, factor);
    else
        step(job.input, n, tile, smoothing, factor);
}

int64_t piece_size(const Job& job, int64_t first_block, int64_t last_block) {
    const int64_t last = last_block * block_size < job.size ? last_block * block_size : job.size;
    return last - first_block * block_size;
}

// The product of the weights, of which there is at least one, tile by tile.
template <class T>
class Weights {
    const int count_;
    Reader<T> one_, two_, three_, four_;
    T* const product_;

  public:
    const T* values[max_weights + 1];  // of each in the last tile, and room for the pos_weight's

    Weights(const Job& job, int64_t first, int64_t size, Space& space)
        : count_(job.weights),
          one_(job.weight[0], first, size, space),
          two_(job.weight[1], first, size, space),
          three_(job.weight[2], first, size, space),
          four_(job.weight[3], first, size, space),
          product_(space.take<T>(product_needed(job, size))) {}

    static int64_t product_needed(const Job& job, int64_t n) { return job.weights > 1 ? tile_of(n) : 0; }

    Reader<T>& reader(int k) {
        Reader<T>* const readers[max_weights] = {&one_, &two_, &three_, &four_};
        return *readers[k];
    }

    const T* tile(int64_t start, int64_t n) {
        for (int k = 0; k < count_; ++k) values[k] = reader(k).tile(start, n);
        const T* weight = values[0];
        for (int k = 1; k < count_; ++k) {
            for (int64_t i = 0; i < n; ++i) product_[i] = weight[i] * values[k][i];
            weight = product_;
        }
        return weight;
    }
};

// Which elements are kept, tile by tile: where this is not 0.
template <class T>
class Kept {
    const bool ignores_, ignores_nan_;
    const T ignored_;
    Reader<T> mask_;
    const bool masked_;
    T* const kept_;

  public:
    Kept(const Job& job, int64_t first, int64_t size, Space& space)
        : ignores_(job.ignores),
          ignores_nan_(job.ignore_index != job.ignore_index),
          ignored_(T(job.ignore_index)),
          mask_(job.mask, first, size, space),
          masked_(job.mask),
          kept_(space.take<T>(needed(job, size))) {
        if (!job.selects())
            for (int64_t i = 0; i < needed(job, size); ++i) kept_[i] = T(1);
    }

    static int64_t needed(const Job& job, int64_t n) {
        return job.ignores || job.divided_by != Divisor::given ? tile_of(n) : 0;
    }

    const T* tile(const T* target, int64_t start, int64_t n) {
        const T* mask = masked_ ? mask_.tile(start, n) : nullptr;
        if (!ignores_) return mask ? mask : kept_;
        if (ignores_nan_)
            for (int64_t i = 0; i < n; ++i) kept_[i] = target[i] == target[i] ? T(1) : T(0);
        else
            for (int64_t i = 0; i < n; ++i) kept_[i] = target[i] != ignored_ ? T(1) : T(0);
        if (mask)
            for (int64_t i = 0; i < n; ++i) kept_[i] = mask[i] != 0 ? kept_[i] : T(0);
        return kept_;
    }

    // How many of the tile.
    int count(const T* target, int64_t start, int64_t n) {
        const T* const here = tile(target, start, n);
        int kept = 0;
        for (int64_t i = 0; i < n; ++i) kept += here[i] != 0;
        return kept;
    }
};

// Calls compute(start, n, loss, gradient, sum, beyond) for every tile, which adds its losses to the two sums, and writes
// what it made.
template <class T, class Compute>
inline void for_each_tile(const Job& job, int64_t first_block, int64_t last_block, Space& space, Compute compute) {
    const int64_t first = first_block * block_size, size = piece_size(job, first_block, last_block);
    // In place of the logits, a tile is read whole before it is written.
    Writer<T> losses(job.loss, first, size, true, space);
    Writer<T> gradients(job.gradient, first, size, is_apart(job.gradient, job.x), space);
    BlockSum sum;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = (block + 1) * block_size < job.size ? (block + 1) * block_size : job.size;
        WideSum beyond;
        for (int64_t start = block * block_size; start < end; start += tile_size) {
            const int64_t n = end - start < tile_size ? end - start : tile_size;
            compute(start, n, losses.tile(start), gradients.tile(start), sum, beyond);
            gradients.write(start, n);
            losses.write(start, n);
        }
        if (job.value) job.block_sum[block] = joined(sum, beyond);
    }
}

template <class T>
unsigned run(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    const int64_t first = first_block * block_size, size = piece_size(job, first_block, last_block);
    const bool selects = job.selects();
    const bool selects_by_target = job.ignores && !job.mask && job.ignore_index == job.ignore_index;
    const bool want_loss = job.loss || job.value;
    const bool saturate =
        job.gradient && job.gradient.dtype == DType::float16 && job.input == Input::probabilities;
    const Factor factor(job);
    const Smoothing<T> smoothing(job.label_smoothing);
    Extremes<T> extremes(job, factor);
    const bool may_be_extreme = !extremes.none();

    Reader<T> x(job.x, first, size, space), target(job.target, first, size, space);
    Reader<T> pos_weight(job.pos_weight, first, size, space);
    Weights<T> weights(job, first, size, space);
    Kept<T> kept(job, first, size, space);
    for (int k = 0; k < job.weights; ++k) extremes.settle(k, weights.reader(k));
    extremes.settle(job.weights, pos_weight);
    T* const ones = space.take<T>(tile_of(size));
    if (may_be_extreme || job.weights > 0 || job.gamma > 0 || job.input == Input::probabilities)
        for (int64_t i = 0; i < tile_of(size); ++i) ones[i] = T(1);

    Step<T> step;
    if (job.weights > 0)
        step = choose<T, Kind::weighted>(selects, want_loss, bool(job.gradient));
    else if (job.pos_weight)
        step = choose<T, Kind::pos_weighted>(selects, want_loss, bool(job.gradient));
    else if (job.label_smoothing != 0)
        step = choose<T, Kind::smoothed>(selects, want_loss, bool(job.gradient));
    else
        step = choose<T, Kind::plain>(selects, want_loss, bool(job.gradient));

    unsigned flags = 0;
    for_each_tile<T>(job, first_block, last_block, space, [&](int64_t start, int64_t n, T* loss, T* gradient,
                                                               BlockSum& sum, WideSum& beyond) {
        Tile<T> tile{x.tile(start, n), target.tile(start, n), ones, ones, ones, T(0), loss, gradient};
        if (job.weights > 0) tile.weight = weights.tile(start, n);
        if (job.pos_weight) tile.pos_weight = pos_weight.tile(start, n);
        if (selects_by_target) {
            tile.kept = tile.target;
            tile.hidden = T(job.ignore_index);
        } else if (selects) {
            tile.kept = kept.tile(tile.target, start, n);
        }
        unsigned outside = 0;
        if (job.input == Input::probabilities) {
            if (out_of_range(n, tile.x, tile.kept, tile.hidden)) outside |= input_out_of_range;
            if (!job.any_target && out_of_range(n, tile.target, tile.kept, tile.hidden)) outside |= target_out_of_range;
        }
        compute_tile(job, step, n, tile, smoothing, T(factor.within));
        if (job.gradient && factor.after != 1)
            for (int64_t i = 0; i < n; ++i) gradient[i] = T(gradient[i] * factor.after);
        if (may_be_extreme) {
            weights.values[job.weights] = tile.pos_weight;
            extremes.find(tile.x, start, n, weights.values);
            extremes.mend(tile, start, n);
        }
        if (outside) spoil_out_of_range(n, tile, job.any_target);
        flags |= outside;
        if (saturate) saturate_half(n, gradient);
        if (job.value && may_be_extreme)
            extremes.add(tile, start, n, sum, beyond);
        else if (job.value)
            sum.add(loss, n);
    });
    return flags;
}

// Packed bfloat16 logits and targets, and no other operand: what is widened among the arithmetic, not into a buffer
// before, costs a sixth less time.
bool is_plain_bfloat16(const Job& job) {
    return job.input == Input::logits && is_packed<BFloat16>(job.x) && is_packed<BFloat16>(job.target) &&
           job.weights == 0 && !job.pos_weight && job.label_smoothing == 0 && !job.in_double() && !job.selects() &&
           Factor(job).after == 1 && Extremes<float>(job, Factor(job)).none();
}

void run_plain_bfloat16(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    const auto* const x = reinterpret_cast<const BFloat16*>(job.x.data);
    const auto* const target = reinterpret_cast<const BFloat16*>(job.target.data);
    const bool want_loss = job.loss || job.value;
    const float factor = float(Factor(job).within);
    constexpr Kind kind = Kind::plain;
    const auto step = !job.gradient ? logits_tile<float, kind, false, true, false, BFloat16>
                      : want_loss   ? logits_tile<float, kind, false, true, true, BFloat16>
                                    : logits_tile<float, kind, false, false, true, BFloat16>;
    const auto compute = [&](int64_t start, int64_t n, float* loss, float* gradient, BlockSum& sum, WideSum&) {
        const Tile<float, BFloat16> tile{x + start, target + start, nullptr, nullptr, nullptr, 0, loss, gradient};
        step(n, tile, Smoothing<float>(0), factor);
        if (job.value) sum.add(loss, n);
    };
    for_each_tile<float>(job, first_block, last_block, space, compute);
}

// How many of n packed elements are not `value`, without a conversion.
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

// The same for a view that is such a packed array, of a common type; −1 for others.
int64_t count_packed(const View& v, int64_t start, int64_t n, double value) {
    const auto packed = [&](int64_t size) {
        return v.dims == 1 && v.stride[0] == size && reinterpret_cast<uintptr_t>(v.data) % size == 0;
    };
    switch (v.dtype) {
        case DType::boolean: {  // any byte but 0 is 1
            if (!packed(1)) return -1;
            const int64_t ones = count_unlike<uint8_t>(v.data + start, n, 0);
            return value == 0 ? ones : value == 1 ? n - ones : n;
        }
        case DType::uint8: return packed(1) ? count_unlike<uint8_t>(v.data + start, n, value) : -1;
        case DType::int8: return packed(1) ? count_unlike<int8_t>(v.data + start, n, value) : -1;
        case DType::int32: return packed(4) ? count_unlike<int32_t>(v.data + 4 * start, n, value) : -1;
        case DType::float32: return packed(4) ? count_unlike<float>(v.data + 4 * start, n, value) : -1;
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

// The sum of the weights of what is kept, or how much is kept: a pass of its own, before the gradient is divided by it.
template <class T>
void measure(const Job& job, int64_t first_block, int64_t last_block, Space& space) {
    const int64_t first = first_block * block_size, size = piece_size(job, first_block, last_block);
    const bool by_weights = job.divided_by == Divisor::weights && job.weights > 0;
    const View none = View(), &targets = job.ignores ? job.target : none;
    Reader<T> target(targets, first, size, space);
    Weights<T> weights(job, first, by_weights ? size : 0, space);
    Kept<T> kept(job, first, size, space);
    T* const counted = space.take<T>(tile_of(size));
    const double most = power_of_two(Stands<double>::coefficient / (job.weights > 0 ? job.weights : 1)), least = 1 / most;
    BlockSum sum;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = (block + 1) * block_size < job.size ? (block + 1) * block_size : job.size;
        int64_t count = 0, start = block * block_size;
        WideSum beyond;
        if (!by_weights && !(job.mask && job.ignores)) {
            const View& selecting = job.mask ? job.mask : job.target;
            const double hidden = job.mask ? 0 : job.ignore_index;
            const int64_t found = hidden == hidden ? count_packed(selecting, start, end - start, hidden) : -1;
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

// A sum of weights is made in double; a count is exact in float, and so is what tells the elements apart.
bool measures_in_double(const Job& job) { return job.in_double() || job.divided_by == Divisor::weights; }

void measure_blocks(const Job& job, int64_t first_block, int64_t last_block, char* workspace) noexcept {
    if (first_block == last_block) return;
    const DefaultRounding mode;
    Space space(workspace);
    measures_in_double(job) ? measure<double>(job, first_block, last_block, space)
                            : measure<float>(job, first_block, last_block, space);
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

// What run takes of its space for a piece of n elements, or else measure.
template <class T>
int64_t space_needed(const Job& job, int64_t n, bool to_run) {
    const auto read = [n](const View& view) { return Space::size<T>(Reader<T>::needed(view, n)); };
    const int64_t tile = Space::size<T>(tile_of(n));
    int64_t bytes = read(job.target) + read(job.mask) + Space::size<T>(Kept<T>::needed(job, n));
    for (int k = 0; k < job.weights; ++k) bytes += read(job.weight[k]);
    bytes += Space::size<T>(Weights<T>::product_needed(job, n));
    if (!to_run) return bytes + tile;  // counted
    bytes += Space::size<T>(Writer<T>::needed(job.loss, n, true));
    bytes += Space::size<T>(Writer<T>::needed(job.gradient, n, is_apart(job.gradient, job.x)));
    return bytes + read(job.x) + read(job.pos_weight) + tile;  // of ones
}

size_t workspace_size(const Job& job, int64_t blocks) {
    const int64_t n = piece_size(job, 0, blocks);
    const int64_t to_run = job.in_double() ? space_needed<double>(job, n, true) : space_needed<float>(job, n, true);
    if (job.divided_by == Divisor::given) return to_run;
    const int64_t to_measure =
        measures_in_double(job) ? space_needed<double>(job, n, false) : space_needed<float>(job, n, false);
    return to_run > to_measure ? to_run : to_measure;
}

Wide add_up_wide(const Wide* values, int64_t n) {
    WideSum sum;
    for (int64_t i = 0; i < n; ++i) sum.add(wide(values[i].part, values[i].exponent));
    return sum.total();
}

// Neumaier's sum: a billion doubles without the drift of a running total. An infinite or NaN total is its own sum.
Wide add_up(const Wide* values, int64_t n) {
    double sum = 0, lost = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double value = values[i].part;
        if (values[i].exponent != 0) return add_up_wide(values, n);
        const double next = sum + value;
        lost += absolute(sum) >= absolute(value) ? (sum - next) + value : (value - next) + sum;
        sum = next;
    }
    return {sum - sum == 0 ? sum + lost : sum, 0};
}

// No elements: the mean is 0/0, as the frameworks have it. None kept, or none with a weight: it is 0.
void write_value(const Job& job, int64_t blocks) {
    const DefaultRounding mode;
    const bool nothing = job.divided_by != Divisor::given && job.divisor == 0;
    const Wide sum = add_up(job.block_sum, blocks);
    const bool ordinary = sum.exponent == 0 && job.divisor_exponent == 0;
    const double value = nothing    ? 0
                         : ordinary ? sum.part / job.divisor
                                    : number(wide(sum.part, sum.exponent) / wide(job.divisor, job.divisor_exponent));
    store_run(job.value.dtype, job.value.data, 0, 1, &value);
}

double read_number(const View& view) {
    const DefaultRounding mode;
    double number;
    load_run(view.dtype, view.data, 0, 1, &number);
    return number;
}

}  // namespace

extern const Kernel kernel;
const Kernel kernel{run_blocks, measure_blocks, workspace_size, add_up, write_value, read_number, count};

}  // namespace binxent::BINXENT_ISA
