#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "environment.h"
#include "memory.h"

namespace binxent {
namespace {

// Whoever is free draws the next task, so that a slow or busy core does not hold up the rest. Which thread computes a task
// has no bearing on its result.
struct Work {
    const int64_t tasks;
    const Task task;
    void* const context;
    const Room room;
    std::atomic<int64_t> next{0};

    Work* queued_next = nullptr;  // the pool's mutex guards this and what follows
    int helpers_wanted = 0;
    int helpers = 0;

    void draw(char* workspace) noexcept {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i, i + 1, context, workspace);
    }

    // Draws in a thread that has no memory yet. If there is none for it, the others go on until nothing is left.
    void help() noexcept {
        if (next.load(std::memory_order_relaxed) >= tasks) return;
        void* const workspace = try_allocate(room.bytes);
        if (workspace) draw(static_cast<char*>(workspace));
        std::free(workspace);
    }
};

// The work that waits for helpers, the oldest first. It is linked through the work itself, so that adding cannot fail.
class Queue {
    Work* first_ = nullptr;

  public:
    Work* first() const { return first_; }

    void add(Work& work) {
        Work** end = &first_;
        while (*end) end = &(*end)->queued_next;
        *end = &work;
    }

    void remove(Work& work) {
        for (Work** link = &first_; *link; link = &(*link)->queued_next)
            if (*link == &work) {
                *link = work.queued_next;
                return;
            }
    }
};

class Pool {
    std::mutex mutex_;
    std::condition_variable arrived_, left_;
    Queue queue_;
    int threads_ = 0;

    void help() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            arrived_.wait(lock, [&] { return queue_.first(); });
            Work& work = *queue_.first();
            ++work.helpers;
            if (--work.helpers_wanted == 0) queue_.remove(work);
            lock.unlock();
            work.help();
            lock.lock();
            if (--work.helpers == 0) left_.notify_all();
        }
    }

    // Starts as many as it can: a limit on processes, a container or the memory may allow no more.
    void start(int threads) noexcept {
        try {
            for (; threads_ < threads; ++threads_) std::thread(&Pool::help, this).detach();
        } catch (const std::exception&) {
        }
    }

  public:
    void run(Work& work, int helpers) noexcept {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start(helpers);
            work.helpers_wanted = std::min(helpers, threads_);
            if (work.helpers_wanted > 0) queue_.add(work);
        }
        arrived_.notify_all();
        work.draw(work.room.callers);
        std::unique_lock<std::mutex> lock(mutex_);
        queue_.remove(work);
        left_.wait(lock, [&] { return work.helpers == 0; });
    }
};

// A forked child has none of its parent's threads. So it gives up the parent's pool, whose mutex may be held, and makes its
// own when it needs one. A pool is never destroyed, since its threads outlive every static object.
std::mutex making_pool;
Pool* pool = nullptr;
bool is_forked_child = false;

// This is registered when the library is loaded: at our first call, threads of a lent executor may be running already.
[[maybe_unused]] const int fork_handlers = pthread_atfork([] { making_pool.lock(); }, [] { making_pool.unlock(); },
                                                          [] {
                                                              pool = nullptr;
                                                              is_forked_child = true;
                                                              making_pool.unlock();
                                                          });

// Returns null if there is no memory for one.
Pool* the_pool() {
    std::lock_guard<std::mutex> lock(making_pool);
    if (!pool) pool = new (std::nothrow) Pool;
    return pool;
}

int processors() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<int> threads_set{0}, default_threads{0};

}  // namespace

void set_num_threads(int threads) { threads_set = threads; }
void set_default_num_threads(int threads) { default_threads = threads; }

int num_threads() {
    if (const int threads = threads_set; threads > 0) return threads;
    if (const int threads = int(number_in(num_threads_variable, 1, most_threads)); threads > 0) return threads;
    if (const int threads = default_threads; threads > 0) return threads;
    return processors();
}

void parallel_for(int64_t tasks, Task task, void* context, Room room, ParallelFor lent) noexcept {
    Work work{tasks, task, context, room};
    if (lent && !is_forked_child) {
        // The executor may split the range into equal parts. We draw from our own counter, whatever part we are given.
        const Body draw = [](int64_t, int64_t, void* self) { static_cast<Work*>(self)->help(); };
        lent(0, tasks, 1, draw, &work);
        work.draw(room.callers);  // whatever an executor that failed, or threads without memory, have left
        return;
    }
    const int threads = int(std::min<int64_t>(tasks, num_threads()));
    Pool* const pool = threads > 1 ? the_pool() : nullptr;
    if (pool)
        pool->run(work, threads - 1);
    else
        work.draw(room.callers);
}

}  // namespace binxent
