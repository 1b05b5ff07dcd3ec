#include "run.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "memory.h"

namespace binxent {

#if defined(__aarch64__)
namespace neon {
extern const Kernel kernel;
}
#else
namespace baseline {
extern const Kernel kernel;
}
#if defined(__x86_64__)
namespace avx512 {
extern const Kernel kernel;
}
namespace avx2 {
extern const Kernel kernel;
}
#endif
#endif

namespace {

constexpr int64_t parallel_size = 65536;         // below this, waking a thread costs more than it brings

struct InstructionSet {
    const char* name;
    const Kernel& kernel;
    bool available;
};

const InstructionSet* choose_instruction_set() {
    static const InstructionSet all[] = {
#if defined(__aarch64__)
        {"neon", neon::kernel, true},
#else
#if defined(__x86_64__)
        {"avx512", avx512::kernel,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {"avx2", avx2::kernel,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("f16c")},
#endif
        {"baseline", baseline::kernel, true},
#endif
    };
    const char* wanted = std::getenv("BINXENT_ISA");
    for (const InstructionSet& set : all)
        if (set.available && (!wanted || !*wanted || std::strcmp(wanted, set.name) == 0)) return &set;
    return nullptr;
}

const InstructionSet* chosen() {
    static const InstructionSet* const set = choose_instruction_set();
    return set;
}

void advise_huge_output(const View& output) {
    if (output && output.dims == 1 && output.stride[0] > 0)
        advise_huge_pages(output.data, output.shape[0] * output.stride[0]);
}

struct Shared {
    const Job& job;
    int64_t blocks, blocks_per_task;
    std::atomic<unsigned> flags{0};

    int64_t first_of(int64_t task) const {
        const int64_t block = task * blocks_per_task;
        return block < blocks ? block : blocks;
    }
};

void run_task(int64_t begin, int64_t end, void* context) {
    Shared& shared = *static_cast<Shared*>(context);
    shared.flags |= chosen()->kernel.run_blocks(shared.job, shared.first_of(begin), shared.first_of(end));
}

void measure_task(int64_t begin, int64_t end, void* context) {
    Shared& shared = *static_cast<Shared*>(context);
    chosen()->kernel.measure_blocks(shared.job, shared.first_of(begin), shared.first_of(end));
}

bool is_floating(DType dtype) {
    return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16;
}

void check_output(const char* name, const View& output) {
    if (!output || is_floating(output.dtype)) return;
    std::string given;
    for (const auto& known : dtype_names)
        if (known.dtype == output.dtype) given = known.name;
    throw std::invalid_argument(std::string(name) + ": an output of dtype " + given +
                                "; expected float16, bfloat16, float32 or float64");
}

}  // namespace

const char* instruction_set() { return chosen() ? chosen()->name : nullptr; }

int64_t element_size(DType dtype) {
    switch (dtype) {
        case DType::float64:
        case DType::int64: return 8;
        case DType::float32:
        case DType::int32: return 4;
        case DType::bfloat16:
        case DType::float16:
        case DType::int16: return 2;
        default: return 1;
    }
}

bool make_view(View& view, void* data, DType dtype, int full_dims, const int64_t* full_shape, int dims,
               const int64_t* shape, const int64_t* strides) {
    if (dims > full_dims) return false;
    // From the innermost dimension outwards, merging each into the one before it where one stride serves both.
    int64_t merged_shape[max_dims], merged_stride[max_dims];
    int count = 0;
    int64_t packed = element_size(dtype);
    for (int d = full_dims - 1; d >= 0; --d) {
        const int own = d - (full_dims - dims);
        const int64_t size = own < 0 ? 1 : shape[own];
        if (size != full_shape[d] && size != 1) return false;
        const int64_t stride = size == 1 ? 0 : strides ? strides[own] : packed;
        packed *= size;
        if (full_shape[d] == 1) continue;
        if (count && stride == merged_stride[count - 1] * merged_shape[count - 1])
            merged_shape[count - 1] *= full_shape[d];
        else {
            merged_shape[count] = full_shape[d];
            merged_stride[count++] = stride;
        }
    }
    if (count == 0) {
        merged_shape[0] = 1;
        merged_stride[count++] = element_size(dtype);
    }
    view.data = static_cast<char*>(data);
    view.dtype = dtype;
    view.dims = count;
    for (int d = 0; d < count; ++d) {
        view.shape[d] = merged_shape[count - 1 - d];
        view.stride[d] = merged_stride[count - 1 - d];
    }
    return true;
}

std::atomic<int64_t> runs{0};

int64_t runs_so_far() { return runs; }

double read_number(const View& view) { return chosen()->kernel.read_number(view); }

unsigned count(Chunk& chunk) { return chosen()->kernel.count(chunk); }

unsigned run(Job& job, ParallelFor lent) {
    check_output("loss", job.loss);
    check_output("value", job.value);
    check_output("gradient", job.gradient);
    ++runs;
    const int64_t blocks = (job.size + block_size - 1) / block_size;
    Wide few[64];
    std::unique_ptr<Wide[]> many;
    if (job.value || job.divided_by != Divisor::given) {
        if (blocks > 64) many.reset(new Wide[blocks]);
        job.block_sum = many ? many.get() : few;
    }
    if (job.gradient.data != job.x.data) advise_huge_output(job.gradient);
    advise_huge_output(job.loss);
    const int64_t share = blocks / 16;
    Shared shared{job, blocks, share < 1 ? 1 : share > 32 ? 32 : share};
    const int64_t tasks = (blocks + shared.blocks_per_task - 1) / shared.blocks_per_task;
    const auto in_parallel = [&](Body body) {
        if (job.size < parallel_size)
            body(0, tasks, &shared);
        else
            parallel_for(tasks, body, &shared, lent);
    };
    if (job.divided_by != Divisor::given) {
        in_parallel(measure_task);
        const Wide divisor = chosen()->kernel.add_up(job.block_sum, blocks);
        job.divisor = divisor.part;
        job.divisor_exponent = divisor.exponent;
    }
    in_parallel(run_task);
    if (job.value) chosen()->kernel.write_value(job, blocks);
    return shared.flags.load();
}

}  // namespace binxent
