// Operands that lie transposed, moved in squares.
#pragma once

#include <cstdint>

#include "core/view.h"

namespace binxent::BINXENT_ISA {

// Whether it is a transposed matrix, or several: the next element in order is far away in memory, but the next row is
// near. Moved one by one, each element would fetch a cache line for itself.
inline bool is_transposed(const View& v) {
    if (v.dims < 2) return false;
    const int64_t column = v.stride[v.dims - 1], row = v.stride[v.dims - 2];
    return row != 0 && (column < 0 ? -column : column) >= 64 && (row < 0 ? -row : row) < (column < 0 ? -column : column);
}

// Moves elements [start, start + n) between such a view and a packed array, in squares of `side` rows and columns, which
// read or write whole cache lines on either side. move(line, count, packed) moves one column of a square, or a row.
constexpr int64_t side = 32;

template <class T, bool reading, class Move>
inline void transpose(const View& v, int64_t start, int64_t n, T* packed, Move move) {
    const int64_t columns = v.shape[v.dims - 1], matrix_rows = v.shape[v.dims - 2];
    const int64_t row_step = v.stride[v.dims - 2];
    T square[side][side];
    for (int64_t done = 0; done < n;) {
        const int64_t position = start + done, column = position % columns;
        const int64_t rows_left = matrix_rows - position / columns % matrix_rows;
        int64_t count = column == 0 ? (n - done) / columns : 0;
        count = count < rows_left ? count : rows_left;
        count = count < side ? count : side;
        const Line row{address_of(v, position), v.stride[v.dims - 1]};
        if (count < 2) {  // a row that the piece begins or ends in
            const int64_t length = columns - column < n - done ? columns - column : n - done;
            move(row, length, packed + done);
            done += length;
            continue;
        }
        for (int64_t first = 0; first < columns; first += side) {
            const int64_t width = columns - first < side ? columns - first : side;
            T* const rows = packed + done + first;
            if (!reading)
                for (int64_t r = 0; r < count; ++r)
                    for (int64_t c = 0; c < width; ++c) square[c][r] = rows[r * columns + c];
            for (int64_t c = 0; c < width; ++c) move(Line{row[first + c], row_step}, count, square[c]);
            if (reading)
                for (int64_t r = 0; r < count; ++r)
                    for (int64_t c = 0; c < width; ++c) rows[r * columns + c] = square[c][r];
        }
        done += count * columns;
    }
}

}  // namespace binxent::BINXENT_ISA
