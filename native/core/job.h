// What a kernel is: the table at the end of this file. What it is asked for: a Job.
//
// A kernel knows addresses, dtypes, shapes and strides, and no framework. lanes/ is written once and compiled for each
// instruction set; each time it fills one table. The promises:
//
// - Each operand is read once and each output is written once. What the divisor counts is measured in a pass of its own.
// - The result depends neither on the number of threads, nor on the layout, nor on how a job is split into runs of blocks,
//   nor on the instruction set. Only the x86-64 baseline, which has no fused multiply-add, has bits of its own.
// - What is ignored adds 0, whatever it holds.
// - A pass over blocks throws nothing and allocates nothing: it works in memory that is given to it. It is a task on some
//   thread, and could tell nobody of a failure. What is wrong with the input is told by flags.
//
// Precision: the arithmetic has the type that Job::in_double() names, float or double. Half types are computed in float.
// Each result is rounded to its own type once, at the end, after it was scaled: the incoming gradient and the divisor are
// one factor. Sums of eight are made in that type, and all others in double: as trees within a block, and block after block
// with Neumaier's correction. For hard targets without weights, loss and gradient are within 2 ulp (3 on the baseline); with
// the focal power in float within 4 ulp up to a gamma of 2, and within 6 up to 5 (5 and 9 on the baseline).
#pragma once

#include <cstddef>
#include <cstdint>

#include "inline.h"
#include "sparse.h"
#include "view.h"

namespace binxent {

enum class Input : int { logits, probabilities };
enum class Divisor : int { given, kept, weights };  // the number given; of elements kept; the sum of their weights

// Blocks of this many elements, consecutive in row-major order, are summed by themselves, and their sums are added in
// order. A sum over whatever elements one thread gets would depend on the threads.
constexpr int64_t block_size = 4096;
constexpr int max_weights = 4;
constexpr double largest_gamma = 5;  // of the focal loss in float: up to here it is within 6 ulp

// part·2^exponent: a sum or a divisor. The exponent is 0 unless the number is beyond the range of a double.
struct Wide {
    double part = 0;
    int64_t exponent = 0;
};

struct Job {
    Input input = Input::logits;
    int64_t size = 0;
    View x, target;
    SparseRows sparse_target;  // in place of the target, of which only the dtype is set then
    View weight[max_weights];  // multiplied together
    int weights = 0;
    View pos_weight;
    View neg_weight;
    View mask;  // an element is kept where this is not 0
    bool ignores = false;
    double ignore_index = 0;  // nor is it kept where the target is this, which may be NaN
    double label_smoothing = 0;
    double gamma = 0;            // of positives
    double gamma_negative = -1;  // of negatives; −1: gamma, as of positives
    double margin = 0;
    double share = 1, other_share = 1;  // alpha and 1 − alpha
    bool of_p_t = false;                // the focal power is that of p_t, and alpha multiplies the whole
    bool checks_targets = false;        // raises flags for what is wrong with targets, pos_weight, neg_weight and mask
    View loss;      // optional output, one value per element
    View gradient;  // optional output; may be x itself
    View hessian;   // optional output beside a gradient: the second derivative by a logit, scaled like the gradient
    View value;     // optional output, one number: the sum of the losses / divisor
    bool expects = false;  // of the focal family, the hessian is the expected one
    Divisor divided_by = Divisor::given;
    double divisor = 1;            // if it is given
    bool nothing_is_zero = false;  // a divisor of 0 gives 0, because it was measured, or is a normalizer
    int64_t divisor_exponent = 0;  // the divisor is divisor·2^divisor_exponent, as a Wide
    double incoming = 1;           // the gradient that comes in: each element's gradient is multiplied by incoming / divisor
    Wide* block_sum = nullptr;     // one per block
    bool any_target = false;       // a probability's target may lie outside [0, 1]

    BINXENT_ALWAYS double power_of_negatives() const { return gamma_negative < 0 ? gamma : gamma_negative; }
    BINXENT_ALWAYS double largest_power() const { return gamma > gamma_negative ? gamma : gamma_negative; }
    // Whether the options ask for an element of family.h.
    BINXENT_ALWAYS bool is_family() const { return margin > 0 || of_p_t || power_of_negatives() != gamma; }
    BINXENT_ALWAYS bool is_focal() const { return largest_power() > 0 || margin > 0 || of_p_t; }
    BINXENT_ALWAYS bool has_share() const { return share != 1 || other_share != 1; }

    // A weight never widens the arithmetic. A large gamma does: it amplifies what was rounded before its power. So does a mask
    // in double, since a float may hold 0 for what it keeps; and a margin, a share or a smoothing whose products would be
    // subnormal.
    BINXENT_ALWAYS bool in_double() const {
        return x.dtype == DType::float64 || target.dtype == DType::float64 || mask.dtype == DType::float64 ||
               largest_power() > largest_gamma || is_tiny(margin) || is_tiny(share) || is_tiny(other_share) ||
               is_tiny(label_smoothing);
    }
    BINXENT_ALWAYS static bool is_tiny(double value) { return value != 0 && value < 0x1p-20; }
    BINXENT_ALWAYS bool selects() const { return mask || ignores; }

    BINXENT_ALWAYS int64_t begin_of(int64_t block) const { return block * block_size; }
    BINXENT_ALWAYS int64_t end_of(int64_t block) const {
        return begin_of(block + 1) < size ? begin_of(block + 1) : size;
    }
    BINXENT_ALWAYS int64_t size_of(int64_t first_block, int64_t last_block) const {
        return end_of(last_block - 1) - begin_of(first_block);
    }
};

// Flags that a run returns.
constexpr unsigned input_out_of_range = 1, target_out_of_range = 2;  // of [0, 1]; of logits if the job checks targets
constexpr unsigned negative_pos_weight = 8, negative_neg_weight = 16, mask_not_binary = 32;  // if it checks targets
constexpr unsigned score_without_bin = 4;                            // of Chunk::pages

struct Chunk;  // of a report: see chunk.h

struct Kernel {
    // Computes blocks [first, last) of the job: writes each element's outputs, and one sum per block. Returns flags.
    unsigned (*run_blocks)(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;

    // Does the same for a job that has a hessian. Such a job is one of logits; its flags are those of wrong targets.
    unsigned (*curve_blocks)(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;

    // The pass before it, where the operands give the divisor: writes what each block counts into its sum.
    void (*measure_blocks)(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;

    // How many bytes one thread works in, in either pass, if it takes at most so many blocks at a time.
    size_t (*workspace_size)(const Job&, int64_t blocks);

    // The blocks' sums, added in order; and the job's value, which is their quotient by the divisor.
    Wide (*add_up)(const Wide*, int64_t n);
    void (*write_value)(const Job&, int64_t blocks);

    // The one number that a view holds, of any dtype.
    double (*read_number)(const View&);

    // Adds a chunk of predictions to a report's tables. Returns flags.
    unsigned (*count)(Chunk&);
};

}  // namespace binxent
