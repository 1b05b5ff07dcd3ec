#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace binxent {

#if defined(__aarch64__)
namespace neon {
extern const Kernel kernel;
}
#else
namespace baseline {
extern const Kernel kernel;
}
#if defined(__x86_64__)
namespace avx512 {
extern const Kernel kernel;
}
namespace avx2 {
extern const Kernel kernel;
}
#endif
#endif

namespace {

#if defined(__x86_64__)
// Asks the processor itself, because the __builtin_cpu_supports of clang 14 refuses to compile "f16c". Whether the system
// keeps the registers that it needs is what "avx2" tells.
bool has_f16c() {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

struct InstructionSet {
    const char* name;
    const Kernel& kernel;
    bool available;
};

// The best one first.
const InstructionSet* choose() {
    static const InstructionSet all[] = {
#if defined(__aarch64__)
        {"neon", neon::kernel, true},
#else
#if defined(__x86_64__)
        {"avx512", avx512::kernel,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {"avx2", avx2::kernel,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
             has_f16c()},
#endif
        {"baseline", baseline::kernel, true},
#endif
    };
    const char* wanted = std::getenv("BINXENT_ISA");
    for (const InstructionSet& set : all)
        if (set.available && (!wanted || !*wanted || std::strcmp(wanted, set.name) == 0)) return &set;
    return nullptr;
}

const InstructionSet* chosen() {
    static const InstructionSet* const set = choose();
    return set;
}

}  // namespace

const char* instruction_set() { return chosen() ? chosen()->name : nullptr; }
const Kernel& kernel() { return chosen()->kernel; }

}  // namespace binxent
