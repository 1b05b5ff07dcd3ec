// The door for XLA: the kernel as a handler of its foreign function interface, which XLA calls from compiled code.
#pragma once

#include "xla_ffi.h"

namespace binxent {

// The attributes say which operands there are. Those in brackets are there if the attribute of that name says so:
//
//     [incoming]                 the incoming gradient
//     [saved]                    the gradient for an incoming gradient of 1. It lies where the result does, and is the
//                                result if each incoming gradient is 1
//     x, target                  the target is one operand or, if the attribute `parts` says so, the three or four of a sparse
//                                one: offsets, labels and first of core/sparse.h, and values
//     weights                    as many as are left, at most four
//     [pos_weight]
//     [mask]
//     [neg_weight]
//     [traced_label_smoothing]   one number; without it, the attribute label_smoothing counts
//     [traced_gamma]             one number; without it, the attribute gamma counts
//
// But for a sparse target, operands have as many dimensions as each other, and each dimension is 1 or full. The first `outer` dimensions are those
// that vmap adds. They number the items of a batch, and each item is a job of its own.
//
// If the attribute checks_targets says so, an operand that is wrong is an error that names its first element. Numbers that
// several options make of alpha and the focal power are attributes named as in core/job.h.
//
// The results are the loss and the gradient to x, as far as the attributes `loss` and `gradient` ask for them. The loss of
// an item is its sum divided by `divisor`, or by what `divided_by` (a Divisor of core/job.h) says. If all dimensions are
// outer, the loss is that of each element. The incoming gradient has the loss's shape, and 1 in the other dimensions.
xla::Error* xla_handler(xla::CallFrame* frame);

}  // namespace binxent
