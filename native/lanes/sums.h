// The sum of a block.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/job.h"
#include "math.h"
#include "wide.h"

namespace binxent::BINXENT_ISA {

constexpr int64_t lanes = 16, rows = 8;  // a group: `lanes` sums of `rows` terms, added as a tree
constexpr int64_t group = lanes * rows;
constexpr int64_t groups = block_size / group;

// A sum of `lanes × groups` parts, added as a tree: so equal numbers are summed without any error.
struct BlockSum {
    double part[groups][lanes];
    int64_t used = 0;

    // Adds n terms. Returns whether no sum of `rows` terms is above `large`, or NaN.
    template <class T>
    bool add(const T* loss, int64_t n, T large = Float<T>::largest) {
        // Bits are in the order of the sizes, so the sign of a difference tells. In vectors that costs least.
        using Bits = std::make_signed_t<typename Float<T>::Bits>;
        Bits beyond[lanes] = {};
        for (; n >= group; n -= group, loss += group) add_group(loss, bits_as<Bits>(large), beyond);
        if (n > 0) {
            T rest[group] = {};
            memcpy(rest, loss, n * sizeof(T));
            add_group(rest, bits_as<Bits>(large), beyond);
        }
        Bits all = 0;
        for (int64_t i = 0; i < lanes; ++i) all |= beyond[i];
        return all >= 0;
    }

    template <class T, class Bits>
    BINXENT_ALWAYS void add_group(const T* loss, Bits large, Bits* beyond) {
        for (int64_t i = 0; i < lanes; ++i) {
            const T* r = loss + i;
            const T sum = ((r[0] + r[lanes]) + (r[2 * lanes] + r[3 * lanes])) +
                          ((r[4 * lanes] + r[5 * lanes]) + (r[6 * lanes] + r[7 * lanes]));
            part[used][i] = double(sum);
            beyond[i] |= large - bits_as<Bits>(absolute(sum));
        }
        ++used;
    }

    // Whether one of the sums of the last n terms is at least `small`.
    bool any_from(double small, int64_t n) const {
        const double* const sums = part[used - (n + group - 1) / group];
        unsigned found = 0;
        for (int64_t i = 0; i < (n + group - 1) / group * lanes; ++i) found |= unsigned(absolute(sums[i]) >= small);
        return found != 0;
    }

    void take_back(int64_t n) { used -= (n + group - 1) / group; }

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

// The sum of a block: what was added as a tree, and what its type does not hold.
inline Wide joined(BlockSum& sum, WideSum& beyond) {
    const double total = sum.total();
    if (beyond.empty) return {total, 0};
    beyond.add(wide(total));
    return beyond.total();
}

}  // namespace binxent::BINXENT_ISA
