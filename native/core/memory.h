// The memory that the kernel asks for. That of a large result is held back when it is freed, and lent to the next one.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace binxent {

// Becomes Python's MemoryError in every face. It says how much was asked for, and making it takes no memory.
class OutOfMemory : public std::bad_alloc {
    char text_[96];

  public:
    explicit OutOfMemory(size_t bytes);
    const char* what() const noexcept override;
};

// Memory that begins with a cache line, to be freed by std::free. If the system has none, the memory that was held back is
// given to the system, which is then asked again.
void* allocate(size_t bytes);               // throws OutOfMemory
void* try_allocate(size_t bytes) noexcept;  // returns null

// For a standard container, so that its failure says how much was asked for, too.
template <class T>
struct Allocator {
    using value_type = T;

    T* allocate(size_t n) { return static_cast<T*>(binxent::allocate(n * sizeof(T))); }
    void deallocate(T* memory, size_t) { std::free(memory); }
};

// The memory that one thread works in. A little of it is part of this object, on the thread's stack, so that a small call
// asks the system for nothing. More would not do: a host's thread may have a stack of 64 KiB.
class Workspace {
    alignas(64) char little_[8192];
    char* const data_;

  public:
    explicit Workspace(size_t bytes) noexcept;
    Workspace(const Workspace&) = delete;
    ~Workspace();

    char* data() { return data_; }  // null if there was no memory
};

// In bytes. For less it would be of no use: what is freed then stays in the C library's allocator.
constexpr size_t large_memory = size_t(4) << 20;

// Asks the system for huge pages, before the first touch; does nothing for less than large_memory. The system clears a page
// before it lends it, which costs more than the arithmetic, and with huge pages a third of that.
void advise_huge_pages(char* data, size_t size);

// A piece of large memory, which begins with a huge page, for as long as this object lives. Its content is whatever was there.
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

// Gives the memory that is held back to the system. Returns how many bytes that were.
size_t release_memory() noexcept;

// The most that is held back, in MiB. If it is not set, that is all that the results have needed at one time.
constexpr const char* max_kept_variable = "BINXENT_MAX_KEPT_MIB";
constexpr long most_kept_mib = 1L << 40;

}  // namespace binxent
