// Numbers that environment variables hold.
#pragma once

#include <cstdint>

namespace binxent {

// The whole number from lowest (not negative) to highest that the variable holds; −1 for anything else, as for none.
int64_t number_in(const char* variable, int64_t lowest, int64_t highest);

}  // namespace binxent
