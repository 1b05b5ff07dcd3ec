// The options of a job that are numbers, in the arithmetic's type.
#pragma once

#include "core/job.h"
#include "focal.h"
#include "math.h"

namespace binxent::BINXENT_ISA {

template <class T>
struct Terms {
    Smoothing<T> smoothing;
    Gamma<T> gamma, negative;  // of positives and of negatives
    T margin;
    T share, other_share;  // alpha and 1 − alpha, where they multiply the whole

    explicit Terms(const Job& job)
        : smoothing(job.label_smoothing, job.of_p_t ? 1 : job.share, job.of_p_t ? 1 : job.other_share),
          gamma(job.gamma),
          negative(job.power_of_negatives()),
          margin(T(job.margin)),
          share(T(job.share)),
          other_share(T(job.other_share)) {}
};

}  // namespace binxent::BINXENT_ISA
