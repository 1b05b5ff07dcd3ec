// The floating-point mode that the arithmetic runs in.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace binxent::BINXENT_ISA {

// Computes in the default mode for as long as it lives, and then restores the caller's: XLA, for one, calls with subnormals
// flushed to 0, which would cut off the tails of a loss.
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

}  // namespace binxent::BINXENT_ISA
