// The table that is a kernel (core/job.h), filled.
#include "table.h"

#include "convert.h"
#include "mode.h"
#include "wide.h"

namespace binxent::BINXENT_ISA {
namespace {

size_t workspace_size(const Job& job, int64_t blocks) {
    const int64_t n = job.size_of(0, blocks), to_run = job.hessian ? space_to_curve(job, n) : space_to_run(job, n);
    if (job.divided_by == Divisor::given) return to_run;
    const int64_t to_measure = space_to_measure(job, n);
    return to_run > to_measure ? to_run : to_measure;
}

Wide add_up_wide(const Wide* values, int64_t n) {
    WideSum sum;
    for (int64_t i = 0; i < n; ++i) sum.add(wide(values[i].part, values[i].exponent));
    return sum.total();
}

// Neumaier's sum: a billion doubles without the drift of a running total. An infinite or NaN total is its own sum.
Wide add_up(const Wide* values, int64_t n) {
    double sum = 0, lost = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double value = values[i].part;
        if (values[i].exponent != 0) return add_up_wide(values, n);
        const double next = sum + value;
        lost += absolute(sum) >= absolute(value) ? (sum - next) + value : (value - next) + sum;
        sum = next;
    }
    return {sum - sum == 0 ? sum + lost : sum, 0};
}

// The mean of no elements is 0/0, as the frameworks have it. Where none is kept, or none has a weight, it is 0.
void write_value(const Job& job, int64_t blocks) {
    const DefaultRounding mode;
    const bool nothing = job.nothing_is_zero && job.divisor == 0;
    const Wide sum = add_up(job.block_sum, blocks);
    const bool ordinary = sum.exponent == 0 && job.divisor_exponent == 0;
    const double value = nothing    ? 0
                         : ordinary ? sum.part / job.divisor
                                    : number(wide(sum.part, sum.exponent) / wide(job.divisor, job.divisor_exponent));
    store_line(job.value.dtype, {job.value.data, 0}, 1, &value);
}

double read_number(const View& view) {
    const DefaultRounding mode;
    double number = 0;
    load_line(view.dtype, {view.data, 0}, 1, &number);
    return number;
}

}  // namespace

extern const Kernel kernel;  // for core/isa.cpp: without this line the constant would be of this file alone
const Kernel kernel{run_blocks, curve_blocks, measure_blocks, workspace_size, add_up, write_value, read_number, count};

}  // namespace binxent::BINXENT_ISA
