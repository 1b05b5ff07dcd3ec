#include "dlpack.h"

#include <cstdlib>
#include <memory>

#include "core/memory.h"

namespace nb = nanobind;

namespace binxent::dlpack {

const ExchangeApi* exchange_api(nb::handle tensor) {
    // The interface belongs to the type, and a call has operands of one type. So looking it up once is enough.
    thread_local PyTypeObject* known_type = nullptr;
    thread_local const ExchangeApi* api = nullptr;
    PyTypeObject* const type = Py_TYPE(tensor.ptr());
    if (type == known_type) return api;
    const nb::object capsule =
        nb::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__"));
    if (!capsule.is_valid()) return nullptr;
    const void* const found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!found) return nullptr;
    if (static_cast<const ExchangeApi*>(found)->version.major != 1) {
        PyErr_SetString(PyExc_TypeError, "an operand's DLPack interface is not of version 1");
        return nullptr;
    }
    known_type = type;
    return api = static_cast<const ExchangeApi*>(found);
}

namespace {

constexpr size_t alignment = 64;  // torch and Paddle align their own tensors so

constexpr size_t aligned(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

void destroy(Managed* managed) {
    if (managed->owner != managed) delete static_cast<Memory*>(managed->owner);
    std::free(managed);
}

}  // namespace

nb::object new_tensor(nb::handle like, bool scalar) {
    const ExchangeApi* const api = exchange_api(like);
    Tensor model;
    if (!api || api->view(like.ptr(), &model) != 0) throw nb::python_error();
    const int dims = scalar ? 0 : model.dims;
    size_t bytes = model.dtype.bits / 8;
    for (int d = 0; d < dims; ++d) bytes *= model.shape[d];
    std::unique_ptr<Memory> large(bytes >= large_memory ? new Memory(bytes) : nullptr);
    // One piece of memory holds the description, the shape and the strides, and the data unless they are large.
    const size_t header = aligned(sizeof(Managed) + 2 * dims * sizeof(int64_t));
    char* const piece = static_cast<char*>(allocate(header + (large ? 0 : aligned(bytes))));
    int64_t* const shape = reinterpret_cast<int64_t*>(piece + sizeof(Managed));
    int64_t* const strides = shape + dims;
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; --d) {
        shape[d] = model.shape[d];
        strides[d] = step;
        step *= shape[d] > 0 ? shape[d] : 1;  // the frameworks count an empty dimension as 1, too
    }
    void* const data = large ? large->data() : piece + header;
    // There is always an owner: a tensor without one is never destroyed by Paddle.
    void* const owner = large ? static_cast<void*>(large.release()) : piece;
    Managed* const managed =
        new (piece) Managed{{1, 0}, owner, destroy, 0, {data, {cpu, 0}, dims, model.dtype, shape, strides, 0}};
    void* tensor = nullptr;
    if (api->give(managed, &tensor) != 0) {
        destroy(managed);
        throw nb::python_error();
    }
    return nb::steal(static_cast<PyObject*>(tensor));
}

}  // namespace binxent::dlpack
