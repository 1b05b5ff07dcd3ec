// Names what a job that checks its targets has found wrong.
#pragma once

#include <string>

#include "job.h"

namespace binxent {

// Returns the message for the first wrong element, in the words of binxent.options.wrong_target. The flags are those that
// the job's run has returned; the shape is that of its logits.
std::string wrong_element(const Job& job, unsigned flags, const int64_t* shape, int dims);

}  // namespace binxent
