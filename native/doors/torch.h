// The door for torch's compiled graphs: operators that torch calls without Python.
#pragma once

#include "core/threads.h"

namespace binxent {

// Gives the operators, which src/binxent/torch/native_operators.py has declared, to torch's dispatcher. `library` is the
// handle of libtorch_cpu, as dlopen returns it. Returns false, and does nothing, if this torch is too old to take them.
bool register_torch_operators(void* library, ParallelFor executor);

}  // namespace binxent
