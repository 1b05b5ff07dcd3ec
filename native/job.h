// What one call of the kernel asks for: addresses, dtype tags, shapes and strides, and no framework.
#pragma once

#include <cstddef>
#include <cstdint>

namespace binxent {

enum class DType : int { float64, float32, bfloat16, float16, boolean, uint8, int8, int16, int32, int64 };
constexpr struct {
    const char* name;
    DType dtype;
} dtype_names[] = {
    {"float64", DType::float64}, {"float32", DType::float32}, {"bfloat16", DType::bfloat16},
    {"float16", DType::float16}, {"bool", DType::boolean},    {"uint8", DType::uint8},
    {"int8", DType::int8},       {"int16", DType::int16},     {"int32", DType::int32},
    {"int64", DType::int64},
};
enum class Input : int { logits, probabilities };
enum class Divisor : int { given, kept, weights };  // the number given; of elements kept; the sum of their weights

// Blocks of this many elements, consecutive in row-major order, are summed by themselves and their sums added in
// order: so the result depends neither on threads nor on layout nor on the instruction set.
constexpr int64_t block_size = 4096;
constexpr int max_dims = 64;
constexpr int max_weights = 4;

// An array as the logits' shape sees it: adjacent dimensions merged where one stride serves both, broadcast ones
// with stride 0. Strides are in bytes, since NumPy's need not be multiples of the element.
struct View {
    char* data = nullptr;
    DType dtype = DType::float32;
    int dims = 0;
    int64_t shape[max_dims];
    int64_t stride[max_dims];

    explicit operator bool() const { return data != nullptr; }
};

// part·2^exponent: a sum or a divisor. The exponent is 0 unless the number is beyond the range of a double.
struct Wide {
    double part = 0;
    int64_t exponent = 0;
};

struct Job {
    Input input = Input::logits;
    int64_t size = 0;
    View x, target;
    View weight[max_weights];  // multiplied together
    int weights = 0;
    View pos_weight;
    View mask;  // an element is kept where this is not 0
    bool ignores = false;
    double ignore_index = 0;  // nor is it kept where the target is this, which may be NaN
    double label_smoothing = 0;
    double gamma = 0;
    View loss;      // optional output, one value per element
    View gradient;  // optional output; may be x itself
    View value;     // optional output, one number: the sum of the losses / divisor
    Divisor divided_by = Divisor::given;
    double divisor = 1;            // if it is given
    bool nothing_is_zero = false;  // a divisor of 0 gives 0, since it was measured, or is a normalizer
    int64_t divisor_exponent = 0;  // the divisor is divisor·2^divisor_exponent, as a Wide
    double incoming = 1;           // the gradient that comes in: the gradient of each element times incoming / divisor
    Wide* block_sum = nullptr;     // one per block
    bool any_target = false;      // of probabilities: targets outside [0, 1] are not out of range

    // Half types are computed in float. Weights never widen the result. The focal power amplifies what is rounded
    // before it, so that it is computed in double. So is what a mask in double selects: a float may hold 0 for it.
    bool in_double() const {
        return x.dtype == DType::float64 || target.dtype == DType::float64 || mask.dtype == DType::float64 || gamma > 0;
    }
    bool selects() const { return mask || ignores; }
};

// Bits that a run of blocks returns.
constexpr unsigned input_out_of_range = 1, target_out_of_range = 2;  // of [0, 1]; probabilities only
constexpr unsigned score_without_bin = 4;                             // of Chunk::pages

struct Chunk;

// What loss.cpp and statistics.cpp offer, once for each instruction set.
// Nothing is allocated in a task, where no failure could be told: the first two work in memory that is given to them.
struct Kernel {
    unsigned (*run_blocks)(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;
    void (*measure_blocks)(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;  // the divisor
    size_t (*workspace_size)(const Job&, int64_t blocks);  // in bytes, for one thread and so many blocks at a time
    Wide (*add_up)(const Wide*, int64_t n);
    void (*write_value)(const Job&, int64_t blocks);
    double (*read_number)(const View&);
    unsigned (*count)(Chunk&);
};

}  // namespace binxent
