// Memory that the kernel asks for: of results, kept when it is freed and lent to the next one; and of what it works in.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace binxent {

// Python's MemoryError in every face: it says how much was asked for, and is made without asking for more.
class OutOfMemory : public std::bad_alloc {
    char text_[96];

  public:
    explicit OutOfMemory(size_t bytes);
    const char* what() const noexcept override;
};

// On the border of a cache line, for std::free. Where there is none, what is kept is given back, and asked for again.
void* allocate(size_t bytes);               // throws OutOfMemory
void* try_allocate(size_t bytes) noexcept;  // returns null

// Of a standard container, so that it too says how much it asked for.
template <class T>
struct Allocator {
    using value_type = T;

    T* allocate(size_t n) { return static_cast<T*>(binxent::allocate(n * sizeof(T))); }
    void deallocate(T* memory, size_t) { std::free(memory); }
};

// What one thread works in. A little lies on its stack, so that a small call asks nobody; not all, since the thread may
// have 64 KiB in all.
class Workspace {
    alignas(64) char little_[8192];
    char* const data_;

  public:
    explicit Workspace(size_t bytes) noexcept;
    Workspace(const Workspace&) = delete;
    ~Workspace();

    char* data() { return data_; }  // null if there was no memory
};

// From here on, in bytes, it is worth the trouble: below, the allocator of the C library keeps what is freed.
constexpr size_t large_memory = size_t(4) << 20;

// Fresh memory costs more than the arithmetic: the system clears a page before it lends it. In huge pages that takes a
// third of the time, if it is asked for before the first touch. Nothing is done for less than large memory.
void advise_huge_pages(char* data, size_t size);

// A piece of it, on the border of a huge page, for as long as this lives. Its content is whatever was there.
class Memory {
    char* data_;
    size_t size_;

  public:
    explicit Memory(size_t bytes);
    Memory(const Memory&) = delete;
    ~Memory();

    void* data() const { return data_; }

    static void* operator new(size_t bytes) { return allocate(bytes); }
    static void operator delete(void* memory);
};

// Gives back to the system what is kept, in bytes.
size_t release_memory() noexcept;

// The most that is kept, in MiB; unless it is set, all that results have needed at one time.
constexpr const char* max_kept_variable = "BINXENT_MAX_KEPT_MIB";
constexpr long most_kept_mib = 1L << 40;

}  // namespace binxent
