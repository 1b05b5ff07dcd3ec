// Where the elements of a view lie.
#pragma once

#include <cstdint>

#include "job.h"

namespace binxent::BINXENT_ISA {

inline char* address_of(const View& v, int64_t element) {
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
    if (inner == 0) return run(v.data + start * v.stride[0], v.stride[0], 0, n);  // no division, which a tile would feel
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

}  // namespace binxent::BINXENT_ISA
