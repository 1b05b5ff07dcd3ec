// Memory for large results, kept when it is freed and lent to the next one.
#pragma once

#include <cstddef>

namespace binxent {

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
};

// Gives back to the system what is kept, in bytes.
size_t release_memory();

}  // namespace binxent
