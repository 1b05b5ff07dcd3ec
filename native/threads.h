// Who runs the blocks: a parallel-for that the caller lends, or a pool of our own.
#pragma once

#include <cstdint>

namespace binxent {

// The signature of torch_parallel_for, the one stable interface of its kind: calls body on parts of [begin, end).
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// Calls body(begin, end, context) so that each of [0, tasks) is covered once, and returns when all are done. A lent
// executor is not called in a forked child, where its threads are gone.
void parallel_for(int64_t tasks, Body body, void* context, ParallelFor lent);

// The size of our own pool: what was set here (0 takes it back), then BINXENT_NUM_THREADS, then OMP_NUM_THREADS, then
// the processors that this process may use.
void set_num_threads(int threads);
int num_threads();

}  // namespace binxent
