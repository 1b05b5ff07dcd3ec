# Refuses, in one line each, what the kernel cannot be built with. It is included before a language is enabled: where
# there is no compiler, CMake's own message is a page, which does not say how to go on without one.

# A line that begins with a space is not broken into several.
function(refuse why)
  message(FATAL_ERROR " binxent: ${why}; BINXENT_PURE=1 installs the definition on NumPy alone, without the native kernel")
endfunction()

include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  refuse("no C++ compiler is found, expected g++ 11 or clang++ 14 or newer (in CXX, or on the path)")
endif()

# The checks compile and do not link: the flag -m32, for one, is to be refused here and not for want of its libraries.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
enable_language(CXX)

set(oldest_GNU 11)
set(oldest_Clang 14)
set(oldest_AppleClang 14)
set(found "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
set(oldest "${oldest_${CMAKE_CXX_COMPILER_ID}}")
if(NOT oldest OR MSVC OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS oldest)
  refuse("the compiler ${CMAKE_CXX_COMPILER} (${found}) is not supported, expected gcc 11 or clang 14 or newer")
endif()

# x87's registers have 64 bits of precision, so that the results would have other bits.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("static_assert(__FLT_EVAL_METHOD__ == 0, \"\");" BINXENT_ROUNDS_EACH_OPERATION)
if(NOT BINXENT_ROUNDS_EACH_OPERATION)
  refuse("${found} computes float in a wider type (FLT_EVAL_METHOD is not 0), expected no flag -mfpmath=387 or -m32")
endif()
unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
