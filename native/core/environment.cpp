#include "environment.h"

#include <cerrno>
#include <cstdlib>

namespace binxent {

int64_t number_in(const char* variable, int64_t lowest, int64_t highest) {
    const char* const value = std::getenv(variable);
    if (!value) return -1;
    char* end;
    errno = 0;
    const long long number = std::strtoll(value, &end, 10);
    if (end == value || errno != 0) return -1;
    while (*end == ' ') ++end;
    return *end == '\0' && number >= lowest && number <= highest ? number : -1;
}

}  // namespace binxent
