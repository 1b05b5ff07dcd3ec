// The part of XLA's C interface for foreign functions that the kernel uses. It is declared here so that a build needs no
// jaxlib. It is the same in all the versions named below, and tests compare its layout with jaxlib's own header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace binxent::xla {

constexpr int major_version = 0, minor_version = 3, oldest_minor_version = 1;

enum : int { extension_metadata = 1 };
enum : int { stage_execute = 3 };
enum : int { error_invalid_argument = 3, error_resource_exhausted = 8 };
enum : int { argument_buffer = 1, result_buffer = 1, attribute_scalar = 3 };
enum ElementType : int {
    pred = 1, s8 = 2, s16 = 3, s32 = 4, s64 = 5, u8 = 6, f16 = 10, f32 = 11, f64 = 12, bf16 = 16
};

struct Error;
struct Context;

struct Extension {
    size_t struct_size;
    int type;
    Extension* next;
};

struct Version {
    size_t struct_size;
    Extension* extension;
    int major_version, minor_version;
};

struct Metadata {
    size_t struct_size;
    Version api_version;
    uint32_t traits;
};

struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

struct Buffer {
    size_t struct_size;
    Extension* extension;
    int dtype;
    void* data;
    int64_t rank;
    int64_t* dims;
};

struct Buffers {  // arguments, and results
    size_t struct_size;
    Extension* extension;
    int64_t size;
    int* types;
    Buffer** buffers;
};

struct Name {
    const char* ptr;
    size_t len;
};

struct Scalar {
    int dtype;
    void* value;
};

struct Attributes {  // sorted by name
    size_t struct_size;
    Extension* extension;
    int64_t size;
    int* types;
    Name** names;
    Scalar** scalars;
};

struct ErrorCreate {
    size_t struct_size;
    Extension* extension;
    const char* message;
    int code;
};

struct ErrorDestroy {
    size_t struct_size;
    Extension* extension;
    Error* error;
};

struct ThreadPoolSchedule {
    size_t struct_size;
    Extension* extension;
    Context* context;
    void (*task)(void*);
    void* data;
};

struct ThreadPoolNumThreads {
    size_t struct_size;
    Extension* extension;
    Context* context;
    int64_t* num_threads;
};

struct Api {
    size_t struct_size;
    Extension* extension;
    Version api_version;
    const void* internal;
    Error* (*error_create)(ErrorCreate*);
    void* error_get_message;
    void (*error_destroy)(ErrorDestroy*);
    void* unused[8];
    Error* (*thread_pool_schedule)(ThreadPoolSchedule*);
    Error* (*thread_pool_num_threads)(ThreadPoolNumThreads*);
};

struct CallFrame {
    size_t struct_size;
    Extension* extension;
    const Api* api;
    Context* context;
    int stage;
    Buffers arguments, results;
    Attributes attributes;
};

}  // namespace binxent::xla
