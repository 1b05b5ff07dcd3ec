// Who runs the blocks: a parallel-for that the caller lends, or a pool of our own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace binxent {

// The signature of torch_parallel_for, the one stable interface of its kind: calls body on parts of [begin, end).
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// A part of the work, for which there is memory of the thread's own. It cannot fail: what runs it may lose an exception
// (torch), or end the process (our own threads, XLA's).
using Task = void (*)(int64_t begin, int64_t end, void* context, char* workspace) noexcept;

// Memory for one thread: that of the caller, which is there, and how much it takes another one.
struct Room {
    char* callers;
    size_t bytes;
};

// Calls task so that each of [0, tasks) is covered once, and returns when all are done. A thread for which there is no
// memory, or one that cannot be started, leaves its share to the others. A lent executor is not called in a forked
// child, where its threads are gone.
void parallel_for(int64_t tasks, Task task, void* context, Room room, ParallelFor lent) noexcept;

// The size of our own pool: what was set here (0 takes it back), then BINXENT_NUM_THREADS, then the default that was set,
// then the processors that this process may use.
void set_num_threads(int threads);
void set_default_num_threads(int threads);
int num_threads();

constexpr const char* num_threads_variable = "BINXENT_NUM_THREADS";
constexpr int most_threads = 4096;

}  // namespace binxent
