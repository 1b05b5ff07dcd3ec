// Tiles: stretches of elements that are worked on in the first-level cache, and the memory for what stands in them.
#pragma once

#include <cstdint>

#include "core/inline.h"

namespace binxent::BINXENT_ISA {

constexpr int64_t tile_size = 512;  // elements
constexpr int64_t cache_line = 64;  // bytes; a vector of AVX-512 that lies across two takes twice the time

constexpr int64_t tile_of(int64_t n) { return n < tile_size ? n : tile_size; }

// The memory that a thread works in, given out from its beginning on. Whoever takes of it says beforehand, in a function
// `space`, how many bytes that will be.
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

// With the hardware's prefetcher alone, a third of the time is spent waiting. So each chunk of elements asks for what
// comes half a page later, into the first-level cache. It is inlined by force: gcc takes a function that does nothing
// else for one without effects, and drops its calls.
constexpr int64_t chunk = 64;

template <class S>
BINXENT_INLINE void prefetch_chunk(const S* operand) {
    constexpr int64_t line = cache_line / sizeof(S), page = 4096 / sizeof(S);
    for (int64_t i = 0; i < chunk; i += line) __builtin_prefetch(operand + page / 2 + i, 0, 3);
}

}  // namespace binxent::BINXENT_ISA
