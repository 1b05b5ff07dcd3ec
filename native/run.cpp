#include "run.h"

#include <atomic>
#include <cmath>
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

// How a job is divided.
struct Division {
    int64_t blocks, blocks_per_task;

    explicit Division(const Job& job) : blocks((job.size + block_size - 1) / block_size) {
        const int64_t share = blocks / 16;  // of a job that is not run alone
        blocks_per_task = job.size < parallel_size ? blocks : share < 1 ? 1 : share > 32 ? 32 : share;
    }

    int64_t tasks() const { return (blocks + blocks_per_task - 1) / blocks_per_task; }

    int64_t first_of(int64_t task) const {
        const int64_t block = task * blocks_per_task;
        return block < blocks ? block : blocks;
    }
};

struct Shared {
    Job& job;
    const Division& division;
    std::atomic<unsigned> flags{0};
};

void run_task(int64_t begin, int64_t end, void* context, char* workspace) noexcept {
    Shared& shared = *static_cast<Shared*>(context);
    const Division& division = shared.division;
    shared.flags |=
        chosen()->kernel.run_blocks(shared.job, division.first_of(begin), division.first_of(end), workspace);
}

void measure_task(int64_t begin, int64_t end, void* context, char* workspace) noexcept {
    Shared& shared = *static_cast<Shared*>(context);
    const Division& division = shared.division;
    chosen()->kernel.measure_blocks(shared.job, division.first_of(begin), division.first_of(end), workspace);
}

size_t workspace_size(const Job& job, const Division& division) {
    return chosen()->kernel.workspace_size(job, division.blocks_per_task);
}

// The first pass, in whatever way in_parallel(task) covers it: the divisor that the operands give.
template <class InParallel>
void measure(Shared& shared, InParallel in_parallel) {
    Job& job = shared.job;
    in_parallel(measure_task);
    const Wide divisor = chosen()->kernel.add_up(job.block_sum, shared.division.blocks);
    job.divisor = divisor.part;
    job.divisor_exponent = divisor.exponent;
    job.nothing_is_zero = true;
}

// Both passes.
template <class InParallel>
unsigned run(Shared& shared, InParallel in_parallel) {
    Job& job = shared.job;
    if (job.divided_by != Divisor::given) measure(shared, in_parallel);
    in_parallel(run_task);
    if (job.value) chosen()->kernel.write_value(job, shared.division.blocks);
    return shared.flags.load();
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

namespace {

unsigned run_alone(Job& job, const Division& division, char* workspace) {
    ++runs;
    Wide sums[parallel_size / block_size];
    job.block_sum = sums;
    Shared shared{job, division};
    return run(shared, [&](Task task) { task(0, 1, &shared, workspace); });
}

}  // namespace

size_t workspace_size(const Job& job) { return workspace_size(job, Division(job)); }

unsigned run_alone(Job& job, char* workspace) noexcept { return run_alone(job, Division(job), workspace); }

unsigned run(Job& job, ParallelFor lent) {
    check_output("loss", job.loss);
    check_output("value", job.value);
    check_output("gradient", job.gradient);
    const Division division(job);
    const size_t bytes = workspace_size(job, division);
    Workspace workspace(bytes);
    if (!workspace.data()) throw OutOfMemory(bytes);
    if (job.size < parallel_size) return run_alone(job, division, workspace.data());
    ++runs;
    std::unique_ptr<Wide, void (*)(void*)> sums(nullptr, std::free);
    if (job.value || job.divided_by != Divisor::given)
        sums.reset(static_cast<Wide*>(allocate(division.blocks * sizeof(Wide))));
    job.block_sum = sums.get();
    if (job.gradient.data != job.x.data) advise_huge_output(job.gradient);
    advise_huge_output(job.loss);
    Shared shared{job, division};
    return run(shared, [&](Task task) {
        parallel_for(division.tasks(), task, &shared, {workspace.data(), bytes}, lent);
    });
}

double measure(Job& job, ParallelFor lent) {
    const Division division(job);
    const size_t bytes = workspace_size(job, division);
    Workspace workspace(bytes);
    if (!workspace.data()) throw OutOfMemory(bytes);
    const std::unique_ptr<Wide, void (*)(void*)> sums(
        static_cast<Wide*>(allocate((division.blocks + 1) * sizeof(Wide))), std::free);
    job.block_sum = sums.get();
    Shared shared{job, division};
    measure(shared, [&](Task task) {
        if (job.size < parallel_size)
            task(0, 1, &shared, workspace.data());
        else
            parallel_for(division.tasks(), task, &shared, {workspace.data(), bytes}, lent);
    });
    return std::ldexp(job.divisor, job.divisor_exponent);
}

}  // namespace binxent
