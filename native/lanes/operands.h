// Operands that are made of several: the product of the weights, and what a mask and an ignore_index keep.
#pragma once

#include <cstdint>

#include "core/job.h"
#include "rows.h"

namespace binxent::BINXENT_ISA {

// The product of the weights, tile by tile. A tile is asked for only if there is a weight.
template <class T>
class Weights {
    const int count_;
    Reader<T> one_, two_, three_, four_;
    T* const product_;

    static int64_t product_needed(const Job& job, int64_t n) { return job.weights > 1 ? tile_of(n) : 0; }

  public:
    const T* values[max_weights + 2];  // of each in the last tile, and room for those of pos_weight and neg_weight

    Weights(const Job& job, int64_t first, int64_t size, Space& space)
        : count_(job.weights),
          one_(job.weight[0], first, size, space),
          two_(job.weight[1], first, size, space),
          three_(job.weight[2], first, size, space),
          four_(job.weight[3], first, size, space),
          product_(space.take<T>(product_needed(job, size))) {}

    static int64_t space(const Job& job, int64_t n) {
        int64_t bytes = Space::size<T>(product_needed(job, n));
        for (int k = 0; k < job.weights; ++k) bytes += Reader<T>::space(job.weight[k], n);
        return bytes;
    }

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

// Which elements are kept, tile by tile: those where its number is not 0.
template <class T>
class Kept {
    const bool ignores_, ignores_nan_;
    const T ignored_;
    Reader<T> mask_;
    const bool masked_;
    T* const kept_;

    static int64_t needed(const Job& job, int64_t n) {
        return job.ignores || job.divided_by != Divisor::given ? tile_of(n) : 0;
    }

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

    static int64_t space(const Job& job, int64_t n) {
        return Reader<T>::space(job.mask, n) + Space::size<T>(needed(job, n));
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

    // Whether a number of the mask is neither 0 nor 1.
    bool is_mask_fractional(int64_t start, int64_t n) {
        const T* const mask = mask_.tile(start, n);
        unsigned fractional = 0;
        for (int64_t i = 0; i < n; ++i) fractional |= unsigned(mask[i] != 0) & unsigned(mask[i] != 1);
        return fractional != 0;
    }

    // How many elements of the tile are kept.
    int count(const T* target, int64_t start, int64_t n) {
        const T* const here = tile(target, start, n);
        int kept = 0;
        for (int64_t i = 0; i < n; ++i) kept += here[i] != 0;
        return kept;
    }
};

}  // namespace binxent::BINXENT_ISA
