#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "environment.h"

namespace binxent {
namespace {

constexpr size_t huge_page = size_t(2) << 20, cache_line = 64;

struct Block {
    char* data;
    size_t size;
};

// The system clears every page that it lends, which takes as long as the loss and its gradient. So what was freed is held
// back for the next result, and the system may take it whenever it runs short. Before new memory is asked for, all of it is
// given back, so that the process never has more than its results need at one time.
constexpr int max_kept = 8;
Block kept[max_kept];
int kept_blocks = 0;
size_t kept_bytes = 0;

size_t most_bytes_kept() {
    const int64_t mib = number_in(max_kept_variable, 0, most_kept_mib);
    return mib < 0 ? SIZE_MAX : size_t(mib) << 20;
}

// Nobody waits for the list above: a thread that finds it taken asks the system instead. Otherwise a forked child could wait
// for ever, if a thread of its parent held the list.
std::atomic_flag taken = ATOMIC_FLAG_INIT;

class Turn {
    const bool mine_ = !taken.test_and_set(std::memory_order_acquire);

  public:
    ~Turn() {
        if (mine_) taken.clear(std::memory_order_release);
    }
    explicit operator bool() const { return mine_; }
};

// Returns no data if the system lends none.
Block map(size_t size) {
    void* const mapped = mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {nullptr, 0};
    char* const begin = static_cast<char*>(mapped);
    char* const data = begin + (huge_page - reinterpret_cast<uintptr_t>(begin) % huge_page) % huge_page;
    if (data > begin) munmap(begin, data - begin);
    munmap(data + size, begin + huge_page - data);
    advise_huge_pages(data, size);
    return {data, size};
}

void unmap(Block block) { munmap(block.data, block.size); }

// The system may take its pages from now on. Those that it leaves need not be cleared. Returns false if it cannot be offered.
bool offer_to_system(Block block) {
#if defined(MADV_FREE)
    return madvise(block.data, block.size, MADV_FREE) == 0;
#else
    return false;
#endif
}

// Takes the smallest block that is large enough, unless it is twice as large. Of several, it takes the one used last, which
// is likeliest to be in the caches.
bool take_kept(size_t size, Block& block) {
    const Turn turn;
    int best = -1;
    for (int i = kept_blocks - 1; turn && i >= 0; --i)
        if (kept[i].size >= size && kept[i].size < 2 * size && (best < 0 || kept[i].size < kept[best].size)) best = i;
    if (best < 0) return false;
    block = kept[best];
    kept_bytes -= block.size;
    --kept_blocks;
    for (int i = best; i < kept_blocks; ++i) kept[i] = kept[i + 1];
    return true;
}

bool keep(Block block) {
    const Turn turn;
    if (!turn || kept_blocks == max_kept || kept_bytes + block.size > most_bytes_kept()) return false;
    if (!offer_to_system(block)) return false;
    kept[kept_blocks++] = block;
    kept_bytes += block.size;
    return true;
}

}  // namespace

void advise_huge_pages(char* data, size_t size) {
#if defined(MADV_HUGEPAGE)
    const auto first = (reinterpret_cast<uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
    const auto last = (reinterpret_cast<uintptr_t>(data) + size) / huge_page * huge_page;
    if (size >= large_memory && last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Memory::Memory(size_t bytes) {
    if (bytes > SIZE_MAX / 4) throw OutOfMemory(bytes);  // with a page added, it could overflow to a small number
    const size_t size = (bytes + huge_page - 1) / huge_page * huge_page;
    Block block;
    if (!take_kept(size, block)) {
        release_memory();
        block = map(size);
        if (!block.data) throw OutOfMemory(bytes);
    }
    data_ = block.data;
    size_ = block.size;
}

Memory::~Memory() {
    const Block block{data_, size_};
    if (!keep(block)) unmap(block);
}

void Memory::operator delete(void* memory) { std::free(memory); }

size_t release_memory() noexcept {
    const Turn turn;
    if (!turn) return 0;
    const size_t bytes = kept_bytes;
    while (kept_blocks > 0) unmap(kept[--kept_blocks]);
    kept_bytes = 0;
    return bytes;
}

OutOfMemory::OutOfMemory(size_t bytes) {
    std::snprintf(text_, sizeof text_, "binxent could not allocate %zu bytes", bytes);
}

const char* OutOfMemory::what() const noexcept { return text_; }

void* try_allocate(size_t bytes) noexcept {
    if (bytes > SIZE_MAX / 4) return nullptr;
    const size_t size = bytes / cache_line * cache_line + cache_line;  // never 0, for which null would be no failure
    void* memory = std::aligned_alloc(cache_line, size);
    if (!memory && release_memory() > 0) memory = std::aligned_alloc(cache_line, size);
    return memory;
}

void* allocate(size_t bytes) {
    void* const memory = try_allocate(bytes);
    if (!memory) throw OutOfMemory(bytes);
    return memory;
}

Workspace::Workspace(size_t bytes) noexcept
    : data_(bytes <= sizeof little_ ? little_ : static_cast<char*>(try_allocate(bytes))) {}

Workspace::~Workspace() {
    if (data_ != little_) std::free(data_);
}

}  // namespace binxent
