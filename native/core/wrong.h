// Names what a job that checks its targets has found wrong.
#pragma once

#include <string>

#include "job.h"

namespace binxent {

// The shape in which a caller gave an operand. A view no longer has it, since it is broadcast to the logits' shape.
struct GivenShape {
    int dims = 0;
    const int64_t* size = nullptr;
};

struct GivenShapes {
    GivenShape logits, pos_weight, neg_weight, mask;
};

// Returns the message for the first wrong element, in the words of binxent.options.wrong_target. The flags are those that
// the job's run has returned. The index is that of the operand as it was given: `pos_weight[2]` where it has the shape [3].
std::string wrong_element(const Job& job, unsigned flags, const GivenShapes& given);

}  // namespace binxent
