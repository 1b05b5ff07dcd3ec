// One call of the kernel: it divides a job into tasks, has threads run them, and adds up the sums of the blocks.
#pragma once

#include "chunk.h"
#include "job.h"
#include "threads.h"

namespace binxent {

// Writes the job's outputs and returns the flags of job.h. `lent` may be null. OutOfMemory is thrown before anything is
// written.
unsigned run(Job& job, ParallelFor lent);

// Returns what the divisor counts: the kept elements, or the sum of their weights. Nothing is written.
double measure(Job& job, ParallelFor lent);

// Does the same for a job of less than parallel_size, in memory of workspace_size(job) that is given: it cannot fail.
constexpr int64_t parallel_size = 65536;  // elements; for fewer, waking a thread costs more than it brings
unsigned run_alone(Job& job, char* workspace) noexcept;
size_t workspace_size(const Job& job);

// Returns the one number that a view holds.
double read_number(const View& view);

// Adds the chunk to its tables, on the calling thread. If it returns a flag of job.h, a value was refused, and all that
// stands before it has been counted.
unsigned count(Chunk& chunk);

// Returns how many times run() was called, which shows whether a mode of a framework reaches the kernel or the formula.
int64_t runs_so_far();

}  // namespace binxent
