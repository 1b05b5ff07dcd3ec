// One call of the kernel: which instruction set, which threads, and the sum of the blocks' sums.
#pragma once

#include "job.h"
#include "statistics.h"
#include "threads.h"

namespace binxent {

// The job's outputs are written; the flags of job.h are returned. `lent` may be null. OutOfMemory is thrown before
// anything is written.
unsigned run(Job& job, ParallelFor lent);

// What the divisor counts: the kept elements, or the sum of their weights. Nothing is written.
double measure(Job& job, ParallelFor lent);

// As run, for a job of less than parallel_size, in memory of workspace_size(job) that is given: it cannot fail.
constexpr int64_t parallel_size = 65536;  // elements; below, waking a thread costs more than it brings
unsigned run_alone(Job& job, char* workspace) noexcept;
size_t workspace_size(const Job& job);

// The one number that a view holds.
double read_number(const View& view);

// The chunk's tables are added to, on the calling thread. Where a flag of job.h is returned a value was refused, and what
// stands before it has been counted.
unsigned count(Chunk& chunk);

// How many times run() was called: it shows whether a mode of a framework reaches the kernel or the formula.
int64_t runs_so_far();

// The view of an operand of `dims` dimensions, broadcast to the logits' shape. Strides in bytes; null if contiguous.
// False if it does not broadcast.
bool make_view(View& view, void* data, DType dtype, int full_dims, const int64_t* full_shape, int dims,
               const int64_t* shape, const int64_t* strides);

int64_t element_size(DType dtype);

// "avx512", "avx2", "neon" or "baseline": the best of this machine, or what BINXENT_ISA names; null if it names one
// that this machine or this build lacks.
const char* instruction_set();

}  // namespace binxent
