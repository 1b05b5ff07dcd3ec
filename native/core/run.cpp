#include "run.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "memory.h"

namespace binxent {
namespace {

void advise_huge_output(const View& output) {
    if (output && output.dims == 1 && output.stride[0] > 0)
        advise_huge_pages(output.data, output.shape[0] * output.stride[0]);
}

// How a job is divided into tasks.
struct Division {
    int64_t blocks, blocks_per_task;

    explicit Division(const Job& job) : blocks((job.size + block_size - 1) / block_size) {
        const int64_t share = blocks / 16;
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
        kernel().run_blocks(shared.job, division.first_of(begin), division.first_of(end), workspace);
}

void curve_task(int64_t begin, int64_t end, void* context, char* workspace) noexcept {
    Shared& shared = *static_cast<Shared*>(context);
    const Division& division = shared.division;
    shared.flags |= kernel().curve_blocks(shared.job, division.first_of(begin), division.first_of(end), workspace);
}

void measure_task(int64_t begin, int64_t end, void* context, char* workspace) noexcept {
    Shared& shared = *static_cast<Shared*>(context);
    const Division& division = shared.division;
    kernel().measure_blocks(shared.job, division.first_of(begin), division.first_of(end), workspace);
}

size_t workspace_size(const Job& job, const Division& division) {
    return kernel().workspace_size(job, division.blocks_per_task);
}

// Runs the first pass, which finds the divisor that the operands give. in_parallel(task) has the task cover all blocks.
template <class InParallel>
void measure(Shared& shared, InParallel in_parallel) {
    Job& job = shared.job;
    in_parallel(measure_task);
    const Wide divisor = kernel().add_up(job.block_sum, shared.division.blocks);
    job.divisor = divisor.part;
    job.divisor_exponent = divisor.exponent;
    job.nothing_is_zero = true;
}

// Runs both passes.
template <class InParallel>
unsigned run(Shared& shared, InParallel in_parallel) {
    Job& job = shared.job;
    if (job.divided_by != Divisor::given) measure(shared, in_parallel);
    in_parallel(job.hessian ? curve_task : run_task);
    if (job.value) kernel().write_value(job, shared.division.blocks);
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

std::atomic<int64_t> runs{0};

int64_t runs_so_far() { return runs; }

double read_number(const View& view) { return kernel().read_number(view); }

unsigned count(Chunk& chunk) { return kernel().count(chunk); }

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
    check_output("hessian", job.hessian);
    if (job.hessian && (!job.gradient || job.input != Input::logits))
        throw std::invalid_argument("hessian: expected beside a gradient, and of logits");
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
    advise_huge_output(job.hessian);
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
