// The door for Paddle's dynamic graph: what a small loss would spend its time on, done without Python.
#pragma once

#include <nanobind/nanobind.h>

namespace binxent {

void bind_paddle(nanobind::module_ module);

}  // namespace binxent
