// Readers and writers: an operand or an output of any dtype and layout, tile by tile in the arithmetic's type.
#pragma once

#include <cstdint>

#include "convert.h"
#include "core/view.h"
#include "tiles.h"
#include "transpose.h"

namespace binxent::BINXENT_ISA {

constexpr int64_t max_period = 4096;  // of a broadcast row that is stored converted

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

template <class T>
bool is_packed(const View& v) {
    return v.dims == 1 && v.stride[0] == sizeof(T) && v.dtype == TypeOf<T>::dtype &&
           reinterpret_cast<uintptr_t>(v.data) % sizeof(T) == 0;
}

// Reads an operand tile by tile as T. It is read in place if it lies packed, as T; otherwise it is converted into a buffer.
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

    // Elements of memory for a piece of n.
    static int64_t needed(const View& view, int64_t n) {
        if (!view || is_packed<T>(view)) return 0;
        const int64_t repeated = period(view, n);
        return repeated ? repeated + tile_of(n) : is_transposed(view) ? n : tile_of(n);
    }

  public:
    Reader(const View& view, int64_t first, int64_t n, Space& space) : view_(view) {
        if (!view || is_packed<T>(view)) return;
        T* const taken = space.take<T>(needed(view, n));
        if ((period_ = period(view, n))) {
            stored_ = taken;
            load_line(view.dtype, {view.data, view.stride[view.dims - 1]}, period_, stored_);
            for (int64_t i = period_; i < period_ + tile_of(n); ++i) stored_[i] = stored_[i - period_];
        } else if (is_transposed(view)) {
            origin_ = first;
            stored_ = taken;
            transpose<T, true>(view, first, n, stored_,
                               [&](Line from, int64_t count, T* to) { load_line(view.dtype, from, count, to); });
        } else {
            buffer_ = taken;
        }
    }
    Reader(const Reader&) = delete;

    static int64_t space(const View& view, int64_t n) { return Space::size<T>(needed(view, n)); }

    int64_t period() const { return period_; }  // of a broadcast row; 0 if there is none

    const T* tile(int64_t start, int64_t n) {
        if (period_) return stored_ + start % period_;
        if (stored_) return stored_ + (start - origin_);
        if (!buffer_) return reinterpret_cast<const T*>(view_.data) + start;
        for_each_line(view_, start, n, [&](Line from, int64_t first, int64_t count) {
            load_line(view_.dtype, from, count, buffer_ + first);
        });
        return buffer_;
    }
};

// Writes an output tile by tile. A tile is made in place if the output lies packed, as T; otherwise it is made in a buffer,
// and converted. A transposed output is written at the end, as a whole.
template <class T>
class Writer {
    const View& view_;
    const int64_t origin_, size_;
    T* stored_ = nullptr;
    T* buffer_ = nullptr;  // of a tile; null where the output is made in place

    // Elements of memory for a piece of n. The loops make an output even if nobody asked for it.
    static int64_t needed(const View& view, int64_t n, bool may_be_direct) {
        if (may_be_direct && view && is_packed<T>(view)) return 0;
        return view && is_transposed(view) ? n : tile_of(n);
    }

  public:
    Writer(const View& view, int64_t first, int64_t n, bool may_be_direct, Space& space)
        : view_(view), origin_(first), size_(n) {
        if (const int64_t elements = needed(view, n, may_be_direct))
            (view && is_transposed(view) ? stored_ : buffer_) = space.take<T>(elements);
    }
    Writer(const Writer&) = delete;

    static int64_t space(const View& view, int64_t n, bool may_be_direct) {
        return Space::size<T>(needed(view, n, may_be_direct));
    }

    ~Writer() {
        if (!stored_) return;
        transpose<T, false>(view_, origin_, size_, stored_,
                            [&](Line to, int64_t count, T* from) { store_line(view_.dtype, to, count, from); });
    }

    // Where the tile is made. Then it is written.
    T* tile(int64_t start) {
        if (stored_) return stored_ + (start - origin_);
        return buffer_ ? buffer_ : reinterpret_cast<T*>(view_.data) + start;
    }
    void write(int64_t start, int64_t n) {
        if (!buffer_ || !view_) return;
        for_each_line(view_, start, n, [&](Line to, int64_t first, int64_t count) {
            store_line(view_.dtype, to, count, buffer_ + first);
        });
    }
};

}  // namespace binxent::BINXENT_ISA
