// Arrays in memory, and where their elements lie. No other file multiplies an index by a stride.
#pragma once

#include <cstdint>

#include "inline.h"

namespace binxent {

enum class DType : int { float64, float32, bfloat16, float16, boolean, uint8, int8, int16, int32, int64 };
constexpr struct {
    const char* name;
    DType dtype;
} dtype_names[] = {
    {"float64", DType::float64}, {"float32", DType::float32}, {"bfloat16", DType::bfloat16},
    {"float16", DType::float16}, {"bool", DType::boolean},    {"uint8", DType::uint8},
    {"int8", DType::int8},       {"int16", DType::int16},     {"int32", DType::int32},
    {"int64", DType::int64},
};

int64_t element_size(DType dtype);  // in bytes

constexpr int max_dims = 64;

// Elements that are evenly spaced in memory. The stride is in bytes, since NumPy's need not be a multiple of the element.
struct Line {
    char* begin;
    int64_t stride;

    BINXENT_ALWAYS char* operator[](int64_t i) const { return begin + i * stride; }
    BINXENT_ALWAYS Line from(int64_t i) const { return {begin + i * stride, stride}; }
};

// An array as the logits' shape sees it: neighbouring dimensions are merged where one stride serves both, and a dimension
// along which the array is broadcast has a stride of 0. Strides are in bytes.
struct View {
    char* data = nullptr;
    DType dtype = DType::float32;
    int dims = 0;
    int64_t shape[max_dims];
    int64_t stride[max_dims];

    BINXENT_ALWAYS explicit operator bool() const { return data != nullptr; }
};

// Sets the view of an operand of `dims` dimensions, broadcast to the full shape. The strides are in bytes, and null for a
// contiguous operand. Returns false if the operand does not broadcast.
bool make_view(View& view, void* data, DType dtype, int full_dims, const int64_t* full_shape, int dims,
               const int64_t* shape, const int64_t* strides);

BINXENT_INLINE char* address_of(const View& v, int64_t element) {
    char* address = v.data;
    for (int d = v.dims - 1; d >= 0; --d) {
        address += element % v.shape[d] * v.stride[d];
        element /= v.shape[d];
    }
    return address;
}

// Calls use(line, first, count) for each evenly spaced stretch of elements [start, start + n); `first` counts from start.
template <class Use>
inline void for_each_line(const View& v, int64_t start, int64_t n, Use use) {
    const int inner = v.dims - 1;
    if (inner == 0) return use(Line{v.data, v.stride[0]}.from(start), 0, n);  // a division would be felt in a tile
    int64_t index[max_dims];
    for (int64_t d = inner, rest = start; d >= 0; rest /= v.shape[d--]) index[d] = rest % v.shape[d];
    char* address = address_of(v, start);
    for (int64_t done = 0;;) {
        const int64_t left = v.shape[inner] - index[inner];
        const int64_t count = left < n - done ? left : n - done;
        use(Line{address, v.stride[inner]}, done, count);
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

}  // namespace binxent
