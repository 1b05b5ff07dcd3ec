// Reads numbers from environment variables.
#pragma once

#include <cstdint>

namespace binxent {

// Returns the whole number that the variable holds, if it is from lowest (which is not negative) to highest. Otherwise, or
// if the variable is not set, returns −1.
int64_t number_in(const char* variable, int64_t lowest, int64_t highest);

}  // namespace binxent
