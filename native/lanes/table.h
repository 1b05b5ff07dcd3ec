// What fills the table: one pass over the operands in each file of that name.
#pragma once

#include <cstdint>

#include "core/job.h"

namespace binxent {
struct Chunk;
}

namespace binxent::BINXENT_ISA {

// loss.cpp
unsigned run_blocks(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;
int64_t space_to_run(const Job&, int64_t n);  // in bytes, for n elements

// curvature.cpp
unsigned curve_blocks(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;
int64_t space_to_curve(const Job&, int64_t n);

// measure.cpp
void measure_blocks(const Job&, int64_t first_block, int64_t last_block, char* workspace) noexcept;
int64_t space_to_measure(const Job&, int64_t n);

// report.cpp
unsigned count(Chunk&);

}  // namespace binxent::BINXENT_ISA
