// The part of DLPack's C exchange interface (version 1.3) that makes a new tensor, and reads one without a copy, a reference
// or a Python call: see https://dmlc.github.io/dlpack/latest/c_api.html. torch and Paddle offer it.
#pragma once

#include <nanobind/nanobind.h>

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

struct Version {
    uint32_t major, minor;
};

// It is called DLManagedTensorVersioned there.
struct Managed {
    Version version;
    void* owner;
    void (*destroy)(Managed*);
    uint64_t flags;
    Tensor tensor;
};

// The functions return 0, or −1 with a Python exception set.
struct ExchangeApi {
    Version version;
    ExchangeApi* previous;
    void *allocate, *own;
    int (*give)(Managed* tensor, void** object);
    int (*view)(void* object, Tensor* out);
    void* current_stream;
};

// Returns the interface of the tensor's type. Returns null, with a Python exception set, if it has none of version 1.
const ExchangeApi* exchange_api(nanobind::handle tensor);

// Makes a contiguous tensor with the type and dtype of another one. A scalar has no dimensions; any other has that one's
// shape. A large tensor lies in memory that is held back when it is freed (core/memory.h).
nanobind::object new_tensor(nanobind::handle like, bool scalar);

}  // namespace binxent::dlpack
