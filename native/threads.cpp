#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace binxent {
namespace {

// Tasks are drawn one at a time by whoever is free, so a slow or busy core does not hold up the rest. Which thread
// computes a task has no bearing on its result.
struct Work {
    const int64_t tasks;
    const Body body;
    void* const context;
    std::atomic<int64_t> next{0};
    int helpers_wanted = 0;  // guarded by the pool's mutex, as the next
    int helpers = 0;

    void draw() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(i, i + 1, context);
    }
};

class Pool {
    std::mutex mutex_;
    std::condition_variable arrived_, left_;
    std::vector<Work*> open_;
    int threads_ = 0;

    void help() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            arrived_.wait(lock, [&] { return !open_.empty(); });
            Work* work = open_.back();
            ++work->helpers;
            if (--work->helpers_wanted == 0) open_.pop_back();
            lock.unlock();
            work->draw();
            lock.lock();
            if (--work->helpers == 0) left_.notify_all();
        }
    }

  public:
    void run(Work& work, int helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            for (; threads_ < helpers; ++threads_) std::thread(&Pool::help, this).detach();
            work.helpers_wanted = helpers;
            open_.insert(open_.begin(), &work);
        }
        arrived_.notify_all();
        work.draw();
        std::unique_lock<std::mutex> lock(mutex_);
        open_.erase(std::remove(open_.begin(), open_.end(), &work), open_.end());
        left_.wait(lock, [&] { return work.helpers == 0; });
    }
};

// A forked child has none of its parent's threads: it gives up the parent's pool, whose mutex may be held, and
// makes its own when it needs one. The pool is never destroyed, since its threads outlive every static object.
std::mutex making_pool;
Pool* pool = nullptr;
bool is_forked_child = false;

// Registered when the library is loaded: a lent executor's threads may be running before we are first called.
[[maybe_unused]] const int fork_handlers = pthread_atfork([] { making_pool.lock(); }, [] { making_pool.unlock(); },
                                                          [] {
                                                              pool = nullptr;
                                                              is_forked_child = true;
                                                              making_pool.unlock();
                                                          });

Pool& the_pool() {
    std::lock_guard<std::mutex> lock(making_pool);
    if (!pool) pool = new Pool;
    return *pool;
}

int processors() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<int> threads_set{0};

}  // namespace

void set_num_threads(int threads) { threads_set = threads; }

int num_threads() {
    if (const int threads = threads_set; threads > 0) return threads;
    for (const char* name : {"BINXENT_NUM_THREADS", "OMP_NUM_THREADS"})
        if (const char* value = std::getenv(name))
            if (const int threads = std::atoi(value); threads > 0) return threads;
    return processors();
}

void parallel_for(int64_t tasks, Body body, void* context, ParallelFor lent) {
    Work work{tasks, body, context};
    if (lent && !is_forked_child) {
        // It may split the range into equal parts; we draw from our own counter, whatever part we are given.
        const Body draw = [](int64_t, int64_t, void* self) { static_cast<Work*>(self)->draw(); };
        if (lent(0, tasks, 1, draw, &work) != 0) work.draw();
        return;
    }
    const int threads = int(std::min<int64_t>(tasks, num_threads()));
    if (threads <= 1)
        work.draw();
    else
        the_pool().run(work, threads - 1);
}

}  // namespace binxent
