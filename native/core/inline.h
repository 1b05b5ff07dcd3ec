// Inlining by force.
//
// The linker keeps one instance of an inline function, and it may keep the one that was compiled for AVX-512, which
// another machine cannot run. So whatever both core/ and lanes/ call from a header must leave no instance behind. Inside
// lanes/ there is a second reason: a loop becomes vector code only if everything that it calls is inlined.
#pragma once

#define BINXENT_ALWAYS __attribute__((always_inline))
#define BINXENT_INLINE inline BINXENT_ALWAYS

// What is rare, and would make the frame of its caller large.
#define BINXENT_APART __attribute__((noinline))
