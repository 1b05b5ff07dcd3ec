#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace binxent {
namespace {

constexpr size_t huge_page = size_t(2) << 20;

struct Block {
    char* data;
    size_t size;
};

// The system clears every page that it lends, which takes as long as the loss and its gradient. What was freed is
// therefore kept for the next result, with the system's leave to take it back whenever it runs short. Nothing is kept
// beside new memory, so that the most that is ever held is what results need at one time.
constexpr int max_kept = 8;
Block kept[max_kept];
int kept_blocks = 0;

// Nobody waits: who finds it taken asks the system. So a forked child, whose parent held it, is not stuck.
std::atomic_flag taken = ATOMIC_FLAG_INIT;

class Turn {
    const bool mine_ = !taken.test_and_set(std::memory_order_acquire);

  public:
    ~Turn() {
        if (mine_) taken.clear(std::memory_order_release);
    }
    explicit operator bool() const { return mine_; }
};

Block map(size_t size) {
    void* const mapped = mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    char* const begin = static_cast<char*>(mapped);
    char* const data = begin + (huge_page - reinterpret_cast<uintptr_t>(begin) % huge_page) % huge_page;
    if (data > begin) munmap(begin, data - begin);
    munmap(data + size, begin + huge_page - data);
    advise_huge_pages(data, size);
    return {data, size};
}

void unmap(Block block) { munmap(block.data, block.size); }

// Its pages are the system's if it wants them; those that it leaves need not be cleared.
bool offer_to_system(Block block) {
#if defined(MADV_FREE)
    return madvise(block.data, block.size, MADV_FREE) == 0;
#else
    return false;
#endif
}

// The smallest that is large enough and not twice as large; of several, the one that was used last.
bool take_kept(size_t size, Block& block) {
    const Turn turn;
    int best = -1;
    for (int i = kept_blocks - 1; turn && i >= 0; --i)
        if (kept[i].size >= size && kept[i].size < 2 * size && (best < 0 || kept[i].size < kept[best].size)) best = i;
    if (best < 0) return false;
    block = kept[best];
    --kept_blocks;
    for (int i = best; i < kept_blocks; ++i) kept[i] = kept[i + 1];
    return true;
}

bool keep(Block block) {
    const Turn turn;
    if (!turn || kept_blocks == max_kept || !offer_to_system(block)) return false;
    kept[kept_blocks++] = block;
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
    if (bytes > SIZE_MAX / 4) throw std::bad_alloc();  // whose sum with a page would be a small number again
    const size_t size = (bytes + huge_page - 1) / huge_page * huge_page;
    Block block;
    if (!take_kept(size, block)) {
        release_memory();
        block = map(size);
    }
    data_ = block.data;
    size_ = block.size;
}

Memory::~Memory() {
    const Block block{data_, size_};
    if (!keep(block)) unmap(block);
}

size_t release_memory() {
    const Turn turn;
    size_t bytes = 0;
    while (turn && kept_blocks > 0) {
        unmap(kept[--kept_blocks]);
        bytes += kept[kept_blocks].size;
    }
    return bytes;
}

}  // namespace binxent
