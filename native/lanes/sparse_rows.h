// A reader of sparse targets: what Reader is for an operand that has all its elements in memory.
#pragma once

#include <cstdint>

#include "convert.h"
#include "core/sparse.h"
#include "loops.h"
#include "tiles.h"

namespace binxent::BINXENT_ISA {

// Makes each tile of a buffer of zeros. Tiles are asked for one after the other, so the next label is at hand: only where a
// row begins, or the first tile lies, is it searched for.
template <class T>
class SparseReader {
    const SparseRows& rows_;
    int64_t next_, row_, column_;      // the element that comes next, and where it lies
    int64_t label_ = 0, last_ = 0;     // of that row: the label that comes next, and where they end
    bool is_wrong_ = false;            // the row had a wrong label
    const int64_t room_;
    T* const buffer_;
    bool is_clear_ = false;  // nothing but zeros stands in the buffer

    void open_row() {
        if (row_ == rows_.rows) return;
        label_ = rows_.offsets[row_];
        last_ = rows_.offsets[row_ + 1];
        is_wrong_ = label_ < last_ && rows_.labels[label_] < 0;
        const int64_t sought = rows_.first + column_;
        for (int64_t after = last_; label_ < after;) {
            const int64_t middle = label_ + (after - label_) / 2;
            if (rows_.labels[middle] < sought)
                label_ = middle + 1;
            else
                after = middle;
        }
    }

    void go_to(int64_t element) {
        next_ = element;
        row_ = element / rows_.columns;
        column_ = element % rows_.columns;
        open_row();
    }

    T value(int64_t label) const {
        if (!rows_.values) return T(1);
        T value;
        load_line(rows_.dtype, {const_cast<char*>(rows_.values) + label * element_size(rows_.dtype), 0}, 1, &value);
        return value;
    }

    // Fills elements [done, done + count) of the buffer, which lie in one row.
    void fill(int64_t done, int64_t count) {
        if (is_wrong_) {
            for (int64_t i = done; i < done + count; ++i) buffer_[i] = T(__builtin_nan(""));
            is_clear_ = false;
            return;
        }
        const int64_t begin = rows_.first + column_;
        for (; label_ < last_; ++label_) {
            const int64_t place = rows_.labels[label_] - begin;
            if (place >= count) return;
            if (place < 0) continue;  // the labels of the row are not sorted: nothing is written outside of the buffer
            buffer_[done + place] = value(label_);
            is_clear_ = false;
        }
    }

  public:
    SparseReader(const SparseRows& rows, int64_t first, int64_t n, Space& space)
        : rows_(rows), room_(tile_of(n)), buffer_(space.take<T>(room_)) {
        go_to(first);
    }
    SparseReader(const SparseReader&) = delete;

    // Whether the last tile holds nothing but zeros.
    bool is_empty() const { return is_clear_; }

    static int64_t space(const SparseRows& rows, int64_t n) { return rows ? Space::size<T>(tile_of(n)) : 0; }

    const T* tile(int64_t start, int64_t n) {
        if (start != next_) go_to(start);
        if (!is_clear_)
            for (int64_t i = 0; i < room_; ++i) buffer_[i] = 0;
        is_clear_ = true;
        for (int64_t done = 0; done < n;) {
            const int64_t left = rows_.columns - column_, count = left < n - done ? left : n - done;
            fill(done, count);
            done += count;
            column_ += count;
            if (column_ < rows_.columns) continue;
            column_ = 0;
            ++row_;
            open_row();
        }
        next_ = start + n;
        return buffer_;
    }
};

// Does what logits_tile does for plain logits whose targets are all 0, with the same bits in fewer instructions.
template <class T, bool want_loss, bool want_gradient>
void negatives_tile(int64_t n, const Tile<T>& tile, const Terms<T>&, T factor) {
    const T* __restrict xs = tile.x;
    T* __restrict losses = tile.loss;
    T* __restrict gradients = tile.gradient;
    for (int64_t start = 0; start < n; start += chunk) {
        prefetch_chunk(xs + start);
        const int64_t end = start + chunk < n ? start + chunk : n;
#pragma GCC ivdep
        for (int64_t i = start; i < end; ++i) {
            const NegativeElement<T> element(xs[i]);
            if constexpr (want_loss) losses[i] = element.loss();
            if constexpr (want_gradient) gradients[i] = element.gradient(factor);
        }
    }
}

// The loop for a tile without labels, most of which are so where there are many labels; `step` where there is no such loop.
template <class T>
Step<T> choose_for_negatives(const Job& job, Step<T> step, T factor) {
    const bool plain = job.weights == 0 && !job.pos_weight && !job.neg_weight && !job.has_share() &&
                       job.label_smoothing == 0 && !job.is_focal();
    const bool is_ordinary = factor != 0 && factor - factor == 0;
    if (job.input != Input::logits || !plain || job.selects() || !is_ordinary) return step;
    if (!job.gradient) return negatives_tile<T, true, false>;
    return job.loss || job.value ? negatives_tile<T, true, true> : negatives_tile<T, false, true>;
}

}  // namespace binxent::BINXENT_ISA
