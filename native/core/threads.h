// Threads for the tasks of a job: those of an executor that the caller lends, or a pool of our own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace binxent {

// An executor calls body on parts of [begin, end). The signature is that of torch_parallel_for, which is part of torch's
// stable interface.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// A part of the work, and memory of the thread's own. It must not throw: torch's executor loses an exception, and on XLA's
// threads or our own it would end the process.
using Task = void (*)(int64_t begin, int64_t end, void* context, char* workspace) noexcept;

// The memory that the calling thread works in, and how many bytes each other thread needs.
struct Room {
    char* callers;
    size_t bytes;
};

// Calls task so that each of [0, tasks) is covered once, and returns when all are done. A thread that has no memory, or
// cannot be started, leaves its share to the others. In a forked child a lent executor is not called: its threads are gone.
void parallel_for(int64_t tasks, Task task, void* context, Room room, ParallelFor lent) noexcept;

// The size of our own pool is the first of these that there is: what set_num_threads was given (0 takes it back);
// BINXENT_NUM_THREADS; what set_default_num_threads was given; the processors that this process may use.
void set_num_threads(int threads);
void set_default_num_threads(int threads);
int num_threads();

constexpr const char* num_threads_variable = "BINXENT_NUM_THREADS";
constexpr int most_threads = 4096;

}  // namespace binxent
