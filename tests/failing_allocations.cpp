// Loaded before any other library, this makes the n-th allocation of one library fail: the one whose code lies from
// `first` to `last`. Nobody else's is counted. Another switch lets no thread be started.
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_memalign(size_t, size_t);

namespace {

std::atomic<uintptr_t> begin{0}, end{0};
std::atomic<long> left{0}, failed{0};
std::atomic<bool> all_later{false}, no_threads{false};

bool fails(void* caller) {
    const auto address = reinterpret_cast<uintptr_t>(caller);
    if (address < begin || address >= end) return false;
    const long here = --left;
    if (here != 0 && !(here < 0 && all_later)) return false;
    ++failed;
    return true;
}

void* or_throw(void* memory) {
    if (!memory) throw std::bad_alloc();
    return memory;
}

}  // namespace

#define FAILS fails(__builtin_return_address(0))

extern "C" {

void fail_at(long n, bool later, uintptr_t first, uintptr_t last) {
    failed = 0, left = n, all_later = later, end = last, begin = first;
}
long stop_failing() {
    begin = end = 0;
    return failed;
}
void start_no_threads(bool none) { no_threads = none; }

void* malloc(size_t size) { return FAILS ? nullptr : __libc_malloc(size); }
void* aligned_alloc(size_t alignment, size_t size) { return FAILS ? nullptr : __libc_memalign(alignment, size); }

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
    if (!FAILS) return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
    errno = ENOMEM;
    return MAP_FAILED;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
    static const auto next = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return no_threads ? EAGAIN : next(thread, attributes, run, argument);
}

}  // extern "C"

void* operator new(size_t size) { return or_throw(FAILS ? nullptr : __libc_malloc(size)); }
void* operator new[](size_t size) { return or_throw(FAILS ? nullptr : __libc_malloc(size)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return FAILS ? nullptr : __libc_malloc(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return FAILS ? nullptr : __libc_malloc(size); }
void* operator new(size_t size, std::align_val_t alignment) {
    return or_throw(FAILS ? nullptr : __libc_memalign(size_t(alignment), size));
}
