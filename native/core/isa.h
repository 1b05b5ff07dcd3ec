// The instruction sets that the kernel was compiled for, and which of them runs.
#pragma once

#include "job.h"

namespace binxent {

// "avx512", "avx2", "neon" or "baseline": the best of this machine, or what BINXENT_ISA names. Null if it names one that
// this machine or this build lacks; then there is no kernel() either.
const char* instruction_set();
const Kernel& kernel();

}  // namespace binxent
