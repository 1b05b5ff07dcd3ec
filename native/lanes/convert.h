// Conversions of every dtype to the arithmetic's type and back, by loops that become vector code.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "core/view.h"
#include "math.h"
#include "tiles.h"

namespace binxent::BINXENT_ISA {

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};
struct Boolean {
    uint8_t bits;
};

inline float widen(BFloat16 v) { return bits_as<float>(uint32_t(v.bits) << 16); }

inline float widen(Float16 v) {
    const uint32_t magnitude = uint32_t(v.bits & 0x7fff) << 13;
    const uint32_t normal = magnitude + (uint32_t(127 - 15) << 23);
    // A subnormal half, read with the exponent of 2^−14, is too large by 2^−14.
    const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(normal + (1u << 23)) - 0x1p-14f);
    const uint32_t finite = magnitude < (1u << 23) ? subnormal : normal;
    const uint32_t value = magnitude >= (31u << 23) ? magnitude | 0x7f800000u : finite;
    return bits_as<float>(value | (uint32_t(v.bits & 0x8000) << 16));
}

// A boolean may be a byte of 255: a mask of 0 and 255 can be looked at as one of booleans. The lesser of a byte and 1 says
// whether it is 0, as a comparison with 0 does; but of a loop over that gcc makes no vector code.
inline uint8_t widen(Boolean v) { return v.bits > 1 ? 1 : v.bits; }

template <class S>
inline S widen(S v) {
    return v;
}

// Rounds once, to nearest even, from the arithmetic's type. A half type gets one and the same NaN: which NaN an operation
// passes on is up to the compiler, so the instruction sets would differ.
template <class S, class T>
struct Narrow {
    static S from(T v) { return S(v); }
};

template <>
struct Narrow<BFloat16, float> {
    static BFloat16 from(float v) {
        const uint32_t bits = bits_as<uint32_t>(v);
        const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
        return {uint16_t((v != v ? 0x7fc00000u : rounded) >> 16)};
    }
};

template <>
struct Narrow<Float16, float> {
    static Float16 from(float v) {
        const uint32_t bits = bits_as<uint32_t>(v);
        const uint32_t magnitude = bits & 0x7fffffffu;
        const uint32_t odd = (magnitude >> 13) & 1u;
        const uint32_t normal = (magnitude - (uint32_t(127 - 15) << 23) + 0xfffu + odd) >> 13;
        // Adding 1/2 puts the last bit of a subnormal half at the last bit of the float, and rounds there.
        const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - bits_as<uint32_t>(0.5f);
        const uint32_t finite = magnitude < (uint32_t(127 - 14) << 23) ? subnormal : normal;
        const uint32_t value = magnitude >= (uint32_t(127 + 16) << 23) ? 0x7c00u : finite;
        return {uint16_t(v != v ? 0x7e00u : value | ((bits >> 16) & 0x8000u))};
    }
};

// From double to a half type the way is through a float that is rounded to odd, so that two roundings are as good as one.
inline float round_to_odd(double v) {
    const float nearest = float(v);
    const uint32_t bits = bits_as<uint32_t>(nearest);
    const bool exact = double(nearest) == v || nearest != nearest;
    const bool away = double(nearest < 0 ? -nearest : nearest) > (v < 0 ? -v : v);
    const uint32_t toward_zero = away ? bits - 1 : bits;
    return bits_as<float>(exact ? bits : toward_zero | 1u);
}

template <>
struct Narrow<BFloat16, double> {
    static BFloat16 from(double v) { return Narrow<BFloat16, float>::from(round_to_odd(v)); }
};

template <>
struct Narrow<Float16, double> {
    static Float16 from(double v) { return Narrow<Float16, float>::from(round_to_odd(v)); }
};

// Convert packed elements by instructions that the compiler does not find for a loop. They return how many elements they have
// converted, from the first on. The loop does the rest, with the same bits.
template <class S, class T>
inline int64_t widen_vectors(const char*, int64_t, T*) {
    return 0;
}
template <class S, class T>
inline int64_t narrow_vectors(char*, int64_t, const T*) {
    return 0;
}

// Functions for one vector. one_nan puts one NaN in the place of every NaN.
#if defined(__AVX512BW__)
constexpr int64_t float16_lanes = 16;

inline __m512 one_nan(__m512 v) {
    // Of the eight classes that the instruction knows, the first two are NaNs.
    return _mm512_fixupimm_ps(_mm512_set1_ps(__builtin_nanf("")), v, _mm512_set1_epi32(0x11111100), 0);
}
inline void widen_float16(const char* from, float* to) {
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
inline void narrow_float16(const float* from, char* to) {
    const __m256i v = _mm512_cvtps_ph(one_nan(_mm512_loadu_ps(from)), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
}
#elif defined(__F16C__)
constexpr int64_t float16_lanes = 8;

inline __m256 one_nan(__m256 v) {
    return _mm256_blendv_ps(_mm256_set1_ps(__builtin_nanf("")), v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));
}
inline void widen_float16(const char* from, float* to) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline void narrow_float16(const float* from, char* to) {
    const __m128i v = _mm256_cvtps_ph(one_nan(_mm256_loadu_ps(from)), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), v);
}
#endif

#if defined(__AVX512BW__) || defined(__F16C__)
template <>
inline int64_t widen_vectors<Float16, float>(const char* from, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + float16_lanes <= n; i += float16_lanes) widen_float16(from + 2 * i, to + i);
    return i;
}
template <>
inline int64_t narrow_vectors<Float16, float>(char* to, int64_t n, const float* from) {
    int64_t i = 0;
    for (; i + float16_lanes <= n; i += float16_lanes) narrow_float16(from + i, to + 2 * i);
    return i;
}
#endif

#if defined(__AVX512BW__)
// The high and low halves of 32 floats are gathered in two vectors, all are rounded at once, and put in order at the end.
template <>
inline int64_t narrow_vectors<BFloat16, float>(char* to, int64_t n, const float* from) {
    alignas(64) static constexpr uint16_t order[32] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                       1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    constexpr __mmask32 of_second = 0xaaaaaaaa;
    const __m512i in_order = _mm512_load_si512(order), one = _mm512_set1_epi16(1), tie = _mm512_set1_epi16(-0x8000);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i first = _mm512_castps_si512(one_nan(_mm512_loadu_ps(from + i)));
        const __m512i second = _mm512_castps_si512(one_nan(_mm512_loadu_ps(from + i + 16)));
        const __m512i high = _mm512_mask_blend_epi16(of_second, _mm512_srli_epi32(first, 16), second);
        const __m512i low = _mm512_mask_blend_epi16(of_second, first, _mm512_slli_epi32(second, 16));
        const __m512i low_or_odd = _mm512_ternarylogic_epi32(low, high, one, 0xf8);  // low | (high & 1): a tie goes to even
        const __mmask32 up = _mm512_cmpgt_epu16_mask(low_or_odd, tie);
        const __m512i rounded = _mm512_mask_add_epi16(high, up, high, one);
        _mm512_storeu_si512(to + 2 * i, _mm512_permutexvar_epi16(in_order, rounded));
    }
    return i;
}
#endif

// The same line with a stride that the compiler knows, so that a loop over it becomes vector code.
template <class S>
BINXENT_INLINE Line packed(Line line) {
    return {line.begin, sizeof(S)};
}

// memcpy, since an address may be misaligned; it compiles to a plain load or store.
template <class S, class T>
inline void load_line(Line from, int64_t n, T* __restrict to) {
    S v;
    if (from.stride == int64_t(sizeof(S))) {
        for (int64_t start = 0; start < n; start += chunk) {
            prefetch_chunk(reinterpret_cast<const S*>(from[start]));
            const int64_t end = start + chunk < n ? start + chunk : n;
            const int64_t converted = widen_vectors<S>(from[start], end - start, to + start);
            for (int64_t i = start + converted; i < end; ++i) {
                memcpy(&v, packed<S>(from)[i], sizeof(S));
                to[i] = T(widen(v));
            }
        }
    } else if (from.stride == 0) {
        memcpy(&v, from.begin, sizeof(S));
        const T value = T(widen(v));
        for (int64_t i = 0; i < n; ++i) to[i] = value;
    } else {
        for (int64_t i = 0; i < n; ++i) {
            memcpy(&v, from[i], sizeof(S));
            to[i] = T(widen(v));
        }
    }
}

template <class S, class T>
inline void store_line(Line to, int64_t n, const T* __restrict from) {
    if (to.stride == int64_t(sizeof(S))) {
        for (int64_t i = narrow_vectors<S>(to.begin, n, from); i < n; ++i) {
            const S v = Narrow<S, T>::from(from[i]);
            memcpy(packed<S>(to)[i], &v, sizeof(S));
        }
    } else {
        for (int64_t i = 0; i < n; ++i) {
            const S v = Narrow<S, T>::from(from[i]);
            memcpy(to[i], &v, sizeof(S));
        }
    }
}

template <class T>
void load_line(DType dtype, Line from, int64_t n, T* to) {
    switch (dtype) {
        case DType::float64: return load_line<double>(from, n, to);
        case DType::float32: return load_line<float>(from, n, to);
        case DType::bfloat16: return load_line<BFloat16>(from, n, to);
        case DType::float16: return load_line<Float16>(from, n, to);
        case DType::boolean: return load_line<Boolean>(from, n, to);
        case DType::uint8: return load_line<uint8_t>(from, n, to);
        case DType::int8: return load_line<int8_t>(from, n, to);
        case DType::int16: return load_line<int16_t>(from, n, to);
        case DType::int32: return load_line<int32_t>(from, n, to);
        case DType::int64: return load_line<int64_t>(from, n, to);
    }
}

template <class T>
void store_line(DType dtype, Line to, int64_t n, const T* from) {
    switch (dtype) {
        case DType::float64: return store_line<double>(to, n, from);
        case DType::float32: return store_line<float>(to, n, from);
        case DType::bfloat16: return store_line<BFloat16>(to, n, from);
        case DType::float16: return store_line<Float16>(to, n, from);
        default: return;  // run() refuses such an output
    }
}

}  // namespace binxent::BINXENT_ISA
