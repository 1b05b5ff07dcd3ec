// What a small loss in Paddle's dynamic graph spends its time on, done without Python.
#pragma once

#include <nanobind/nanobind.h>

namespace binxent {

void bind_paddle(nanobind::module_ module);

}  // namespace binxent
