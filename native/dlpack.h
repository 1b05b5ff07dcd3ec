// The part of DLPack's C exchange interface (version 1.3) that reads a tensor without a copy, a reference or a Python
// call: see https://dmlc.github.io/dlpack/latest/c_api.html. torch and Paddle offer it.
#pragma once

#include <cstdint>

namespace binxent::dlpack {

enum : int32_t { cpu = 1 };
enum : uint8_t { type_int = 0, type_uint = 1, type_float = 2, type_bfloat = 4, type_bool = 6 };

struct Tensor {
    void* data;
    struct {
        int32_t type, id;
    } device;
    int32_t dims;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null if contiguous
    uint64_t byte_offset;
};

struct ExchangeApi {
    struct {
        uint32_t major, minor;
    } version;
    ExchangeApi* previous;
    void *allocate, *own, *give;
    int (*view)(void* object, Tensor* out);  // 0, or −1 with a Python exception set
    void* current_stream;
};

}  // namespace binxent::dlpack
