// The kernel as a handler of XLA's foreign function interface, which XLA calls from compiled code.
#pragma once

#include "xla_ffi.h"

namespace binxent {

// Operands: the incoming gradient if there is one (attribute `incoming`), the gradient for an incoming gradient of 1 if
// it was made before (`saved`; it lies where the result does), x, target, any weights, pos_weight if there is one
// (`pos_weight`), mask likewise (`mask`), and label_smoothing and gamma where they are no attributes
// (`traced_label_smoothing`, `traced_gamma`), one number each. All have one number of dimensions, each of them 1 or full.
//
// Results: the loss and the gradient to x, whichever is asked for (`loss`, `gradient`). The loss is the sum over all
// dimensions but the first `kept`, which vmap adds, divided by `divisor`; where `kept` is all of them, it is that of
// each element. The incoming gradient has the loss's shape, and 1 in the other dimensions.
xla::Error* xla_handler(xla::CallFrame* frame);

}  // namespace binxent
