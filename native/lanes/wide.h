// Numbers of any size: a double with an exponent beside it, for what would leave the range of a type on the way.
#pragma once

#include <cstdint>

#include "core/job.h"
#include "math.h"

namespace binxent::BINXENT_ISA {

constexpr int64_t no_bits_left = 1000;  // 2^−1000 times one number is nothing beside another one of its size

// Returns 2^k, for −1022 ≤ k ≤ 1023.
inline double power_of_two(int64_t k) { return bits_as<double>(uint64_t(k + 1023) << 52); }

// Returns part·2^exponent, with 1 ≤ |part| < 2 unless it is 0, infinite or NaN.
inline Wide wide(double part, int64_t exponent = 0) {
    if (part == 0 || part - part != 0) return {part, 0};
    if (absolute(part) < Float<double>::smallest_normal) {
        part *= 0x1p64;
        exponent -= 64;
    }
    const int64_t own = int64_t(bits_as<uint64_t>(part) >> 52 & 0x7ff) - 1023;
    return {bits_as<double>(bits_as<uint64_t>(part) - (uint64_t(own) << 52)), exponent + own};
}

inline bool is_finite(Wide v) { return v.part - v.part == 0; }

// Returns the nearest double, rounded once.
inline double number(Wide v) {
    if (v.part == 0 || !is_finite(v)) return v.part;
    if (v.exponent > 1023) return with_sign_of(v.part, __builtin_inf());
    if (v.exponent >= -1022) return v.part * power_of_two(v.exponent);
    return v.exponent < -1080 ? with_sign_of(v.part, 0.0) : v.part * 0x1p-1000 * power_of_two(v.exponent + 1000);
}

inline Wide operator-(Wide v) { return {-v.part, v.exponent}; }
inline Wide operator*(Wide a, Wide b) { return wide(a.part * b.part, a.exponent + b.exponent); }
inline Wide operator/(Wide a, Wide b) { return wide(a.part / b.part, a.exponent - b.exponent); }
inline Wide operator+(Wide a, Wide b) {
    if (a.part == 0) return b;
    if (b.part == 0) return a;
    if (!is_finite(a) || !is_finite(b)) return {a.part + b.part, 0};
    const Wide larger = a.exponent < b.exponent ? b : a, smaller = a.exponent < b.exponent ? a : b;
    const int64_t apart = larger.exponent - smaller.exponent;
    return apart > no_bits_left ? larger : wide(larger.part + smaller.part * power_of_two(-apart), larger.exponent);
}

// Adds them in the order in which they come, with Neumaier's correction.
class WideSum {
    double sum_ = 0, lost_ = 0;
    int64_t exponent_ = 0;  // of both: the largest that has come

  public:
    bool empty = true;

    void add(Wide v) {
        if (v.part == 0) return;
        if (empty || v.exponent > exponent_) {
            const int64_t down = v.exponent - exponent_;
            const double scale = empty || down > no_bits_left ? 0 : power_of_two(-down);
            sum_ = sum_ - sum_ == 0 ? sum_ * scale : sum_;
            lost_ *= scale;
            exponent_ = v.exponent;
            empty = false;
        }
        const int64_t down = exponent_ - v.exponent;
        const double term = is_finite(v) && down > no_bits_left ? 0 : v.part * power_of_two(is_finite(v) ? -down : 0);
        const double next = sum_ + term;
        lost_ += absolute(sum_) >= absolute(term) ? (sum_ - next) + term : (term - next) + sum_;
        sum_ = next;
    }

    // The exponent is 0 wherever a double holds the sum with all its digits.
    Wide total() const {
        const Wide v = wide(sum_ - sum_ == 0 ? sum_ + lost_ : sum_, exponent_);
        return v.exponent < 900 && v.exponent > -900 ? Wide{number(v), 0} : v;
    }
};

}  // namespace binxent::BINXENT_ISA
