// The fused loops. This file is compiled once for each instruction set, into a namespace of that name; it uses no
// template of the standard library, whose instances the linker would share between instruction sets.
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "convert.h"
#include "job.h"
#include "math.h"
#include "run.h"

namespace binxent::BINXENT_ISA {

unsigned count(const Chunk&);  // of statistics.cpp

namespace {

constexpr int64_t tile_size = 512;      // elements that are worked on in the first-level cache
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

char* address_of(const View& v, int64_t element) {
    char* address = v.data;
    for (int d = v.dims - 1; d >= 0; --d) {
        address += element % v.shape[d] * v.stride[d];
        element /= v.shape[d];
    }
    return address;
}

// Calls run(address, stride, first, count) for the pieces, evenly spaced in memory, of elements [start, start + n).
template <class Run>
inline void for_each_run(const View& v, int64_t start, int64_t n, Run run) {
    const int inner = v.dims - 1;
    int64_t index[max_dims];
    for (int64_t d = inner, rest = start; d >= 0; rest /= v.shape[d--]) index[d] = rest % v.shape[d];
    char* address = address_of(v, start);
    for (int64_t done = 0;;) {
        const int64_t left = v.shape[inner] - index[inner];
        const int64_t count = left < n - done ? left : n - done;
        run(address, v.stride[inner], done, count);
        done += count;
        if (done == n) return;
        address -= index[inner] * v.stride[inner];
        index[inner] = 0;
        for (int d = inner - 1; d >= 0; --d) {
            address += v.stride[d];
            if (++index[d] < v.shape[d]) break;
            address -= v.shape[d] * v.stride[d];
            index[d] = 0;
        }
    }
}

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

// Reads an operand tile by tile as T: in place where it lies so, else converted into a buffer.
template <class T>
class Reader {
    const View& view_;
    int64_t origin_ = 0;  // the element that stored_ begins with
    int64_t period_ = 0;
    T* stored_ = nullptr;  // a broadcast row, repeated so that a tile can start anywhere in it; or the whole piece
    bool direct_ = false;
    T buffer_[tile_size];

  public:
    Reader(const View& view, int64_t first, int64_t n) : view_(view) {
        if (!view) return;
        const int inner = view.dims - 1;
        direct_ = is_packed<T>(view);
        const bool constant = view.dims == 1 && view.stride[0] == 0;
        const bool row = view.dims == 2 && view.stride[0] == 0 && view.shape[1] <= max_period;
        if (constant || (row && n > tile_size)) {
            period_ = constant ? 1 : view.shape[1];
            stored_ = new T[period_ + tile_size];
            load_run(view.dtype, view.data, view.stride[inner], period_, stored_);
            for (int64_t i = period_; i < period_ + tile_size; ++i) stored_[i] = stored_[i - period_];
        } else if (is_transposed(view)) {
            origin_ = first;
            stored_ = new T[n];
            transpose<T, true>(view, first, n, stored_, [&](char* from, int64_t stride, int64_t count, T* to) {
                load_run(view.dtype, from, stride, count, to);
            });
        }
    }
    Reader(const Reader&) = delete;
    ~Reader() { delete[] stored_; }

    const T* tile(int64_t start, int64_t n) {
        if (direct_) return reinterpret_cast<const T*>(view_.data) + start;
        if (period_) return stored_ + start % period_;
        if (stored_) return stored_ + (start - origin_);
        for_each_run(view_, start, n, [&](const char* from, int64_t stride, int64_t first, int64_t count) {
            load_run(view_.dtype, from, stride, count, buffer_ + first);
        });
        return buffer_;
    }
};

// Writes an output tile by tile: in place where T can lie there, else converted from a buffer; a transposed one at the
// end, as a whole.
template <class T>
class Writer {
    const View& view_;
    const int64_t origin_, size_;
    T* stored_ = nullptr;
    bool direct_ = false;
    T buffer_[tile_size];

  public:
    Writer(const View& view, int64_t first, int64_t n, bool may_be_direct) : view_(view), origin_(first), size_(n) {
        if (!view) return;
        direct_ = may_be_direct && is_packed<T>(view);
        if (is_transposed(view)) stored_ = new T[n];
    }
    Writer(const Writer&) = delete;
    ~Writer() {
        if (!stored_) return;
        transpose<T, false>(view_, origin_, size_, stored_, [&](char* to, int64_t stride, int64_t count, T* from) {
            store_run(view_.dtype, to, stride, count, from);
        });
        delete[] stored_;
    }

    // Where the tile is made; then it is written.
    T* tile(int64_t start) {
        if (direct_) return reinterpret_cast<T*>(view_.data) + start;
        return stored_ ? stored_ + (start - origin_) : buffer_;
    }
    void write(int64_t start, int64_t n) {
        if (direct_ || stored_ || !view_) return;
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

template <class T>
struct Tile {
    const T *x, *target, *weight, *pos_weight;
    T* loss;
    T* gradient;
};

// The hardware's prefetcher alone leaves a third of the time to waiting: each chunk asks for what comes a page later.
constexpr int64_t chunk = 64;

template <class T>
inline void prefetch_chunk(const T* operand) {
    constexpr int64_t line = 64 / sizeof(T), page = 4096 / sizeof(T);
    for (int64_t i = 0; i < chunk; i += line) __builtin_prefetch(operand + page + i, 0, 2);
}

// Calls element(i, positive, negative, lost) with the coefficients p·y·w and (1 − y)·w, and what rounding 1 − y lost of
// the latter, in a loop that vectorises.
template <class T, bool weighted, class Element>
inline void for_each_element(int64_t n, const Tile<T>& tile, Element element) {
    const T* __restrict targets = tile.target;
    const T* __restrict weights = tile.weight;
    const T* __restrict pos_weights = tile.pos_weight;
    for (int64_t start = 0; start < n; start += chunk) {
        prefetch_chunk(tile.x + start);
        prefetch_chunk(targets + start);
        const int64_t end = start + chunk < n ? start + chunk : n;
        for (int64_t i = start; i < end; ++i) {
            T positive = targets[i], negative = T(1) - targets[i], lost = (T(1) - negative) - targets[i];
            if constexpr (weighted) {
                positive = positive * pos_weights[i] * weights[i];
                negative = negative * weights[i];
                lost = lost * weights[i];
            }
            element(i, positive, negative, lost);
        }
    }
}

template <class T, bool weighted, bool want_loss, bool want_gradient>
void logits_tile(int64_t n, const Tile<T>& tile, T factor) {
    const T* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    for_each_element<T, weighted>(n, tile, [=](int64_t i, T positive, T negative, T lost) {
        const T x = xs[i];
        const T leading = x < 0 ? positive : negative;
        const T trailing = x < 0 ? negative : positive;
        const Logit<T> logit(x);
        if constexpr (want_loss) losses[i] = logit_loss(logit, leading, weighted ? leading + trailing : T(1));
        if constexpr (want_gradient) {
            const T lost_leading = x < 0 || lost != lost ? T(0) : lost;  // NaN for an infinite target or weight
            gradients[i] = logit_gradient(logit, x, leading, trailing, factor, lost_leading);
        }
    });
}

template <class T, bool weighted, bool want_loss, bool want_gradient>
void probabilities_tile(int64_t n, const Tile<T>& tile, T factor) {
    const T* __restrict qs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    for_each_element<T, weighted>(n, tile, [=](int64_t i, T positive, T negative, T) {
        const T q = qs[i];
        if constexpr (want_loss) losses[i] = fma(positive, clamped_minus_log(q), negative * clamped_minus_log1m(q));
        if constexpr (want_gradient) gradients[i] = probability_gradient(q, positive, negative, factor);
    });
}

template <class T>
bool out_of_range(int64_t n, const T* v) {
    unsigned outside = 0;
    for (int64_t i = 0; i < n; ++i) outside |= unsigned(!(v[i] >= 0)) | unsigned(!(v[i] <= 1));
    return outside != 0;
}

// For a caller that cannot raise: NaN for every element that is out of range.
template <class T>
void spoil_out_of_range(int64_t n, const Tile<T>& tile) {
    for (int64_t i = 0; i < n; ++i) {
        const T q = tile.x[i], target = tile.target[i];
        if (!(q >= 0 && q <= 1 && target >= 0 && target <= 1)) tile.loss[i] = tile.gradient[i] = T(__builtin_nan(""));
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

template <class T, bool weighted, bool want_loss, bool want_gradient>
void compute(Input input, int64_t n, const Tile<T>& tile, T factor) {
    if (input == Input::logits)
        logits_tile<T, weighted, want_loss, want_gradient>(n, tile, factor);
    else
        probabilities_tile<T, weighted, want_loss, want_gradient>(n, tile, factor);
}

template <class T>
unsigned run(const Job& job, int64_t first_block, int64_t last_block) {
    const int64_t first = first_block * block_size;
    const int64_t last = last_block * block_size < job.size ? last_block * block_size : job.size;
    const int64_t size = last - first;
    const bool weighted = job.weights > 0 || job.pos_weight;
    const bool want_loss = job.loss || job.value;
    const bool saturate =
        job.gradient && job.gradient.dtype == DType::float16 && job.input == Input::probabilities;
    const T factor = T(job.factor);

    Reader<T> x(job.x, first, size), target(job.target, first, size), pos_weight(job.pos_weight, first, size);
    Reader<T> weight0(job.weight[0], first, size), weight1(job.weight[1], first, size);
    Reader<T> weight2(job.weight[2], first, size), weight3(job.weight[3], first, size);
    // In place of the logits, a tile is read whole before it is written.
    Writer<T> losses(job.loss, first, size, true);
    Writer<T> gradients(job.gradient, first, size, job.gradient.data != job.x.data);
    Reader<T>* weights[max_weights] = {&weight0, &weight1, &weight2, &weight3};
    T ones[tile_size], product[tile_size];
    if (weighted)
        for (T& one : ones) one = T(1);

    void (*step)(Input, int64_t, const Tile<T>&, T);
    if (weighted)
        step = !job.gradient ? compute<T, true, true, false>
               : want_loss   ? compute<T, true, true, true>
                             : compute<T, true, false, true>;
    else
        step = !job.gradient ? compute<T, false, true, false>
               : want_loss   ? compute<T, false, true, true>
                             : compute<T, false, false, true>;

    BlockSum sum;
    unsigned flags = 0;
    for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t end = (block + 1) * block_size < job.size ? (block + 1) * block_size : job.size;
        for (int64_t start = block * block_size; start < end; start += tile_size) {
            const int64_t n = end - start < tile_size ? end - start : tile_size;
            Tile<T> tile{x.tile(start, n), target.tile(start, n), ones, ones, losses.tile(start), gradients.tile(start)};
            if (job.weights > 0) tile.weight = weights[0]->tile(start, n);
            for (int k = 1; k < job.weights; ++k) {
                const T* more = weights[k]->tile(start, n);
                for (int64_t i = 0; i < n; ++i) product[i] = tile.weight[i] * more[i];
                tile.weight = product;
            }
            if (job.pos_weight) tile.pos_weight = pos_weight.tile(start, n);
            unsigned outside = 0;
            if (job.input == Input::probabilities) {
                if (out_of_range(n, tile.x)) outside |= input_out_of_range;
                if (out_of_range(n, tile.target)) outside |= target_out_of_range;
            }
            step(job.input, n, tile, factor);
            if (outside) spoil_out_of_range(n, tile);
            flags |= outside;
            if (saturate) saturate_half(n, tile.gradient);
            gradients.write(start, n);
            losses.write(start, n);
            if (job.value) sum.add(tile.loss, n);
        }
        if (job.value) job.block_sum[block] = sum.total();
    }
    return flags;
}

unsigned run_blocks(const Job& job, int64_t first_block, int64_t last_block) {
    if (first_block == last_block) return 0;  // an empty array has no memory that could be read
    const DefaultRounding mode;
    return job.in_double() ? run<double>(job, first_block, last_block) : run<float>(job, first_block, last_block);
}

// Neumaier's sum: a billion doubles without the drift of a running total. An infinite or NaN total is its own sum.
double add_up(const double* values, int64_t n) {
    double sum = 0, lost = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double next = sum + values[i];
        lost += absolute(sum) >= absolute(values[i]) ? (sum - next) + values[i] : (values[i] - next) + sum;
        sum = next;
    }
    return sum - sum == 0 ? sum + lost : sum;
}

// No elements: the mean is 0/0, as the frameworks have it.
void write_value(const Job& job, int64_t blocks) {
    const DefaultRounding mode;
    const double value = add_up(job.block_sum, blocks) / job.divisor;
    store_run(job.value.dtype, job.value.data, 0, 1, &value);
}

double read_factor(const View& incoming, double divisor) {
    const DefaultRounding mode;
    double number;
    load_run(incoming.dtype, incoming.data, 0, 1, &number);
    return number / divisor;
}

}  // namespace

extern const Kernel kernel;
const Kernel kernel{run_blocks, write_value, read_factor, count};

}  // namespace binxent::BINXENT_ISA
