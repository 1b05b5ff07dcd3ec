#include "paddle.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "dlpack.h"
#include "job.h"

namespace nb = nanobind;

namespace binxent {

namespace {

// The interface of the tensor's type, or null: Paddle has had it since 3.3.
const dlpack::ExchangeApi* exchange_api(nb::handle tensor) {
    thread_local PyTypeObject* known_type = nullptr;
    thread_local const dlpack::ExchangeApi* api = nullptr;
    PyTypeObject* const type = Py_TYPE(tensor.ptr());
    if (type == known_type) return api;
    const dlpack::ExchangeApi* found = nullptr;
    if (PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__")) {
        found = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
        Py_DECREF(capsule);
    }
    PyErr_Clear();
    if (!found || found->version.major != 1) return nullptr;
    known_type = type;
    return api = found;
}

bool view(nb::handle tensor, dlpack::Tensor& out) {
    const dlpack::ExchangeApi* api = exchange_api(tensor);
    if (api && api->view(tensor.ptr(), &out) == 0) return true;
    PyErr_Clear();
    return false;
}

bool is_float32_on_cpu(const dlpack::Tensor& tensor) {
    return tensor.device.type == dlpack::cpu && tensor.dtype.code == dlpack::type_float && tensor.dtype.bits == 32 &&
           tensor.dtype.lanes == 1;
}

// The number of elements of two float32 tensors of one shape in the processor's memory; −1 for any others.
int64_t plain_elements(nb::handle input, nb::handle label) {
    dlpack::Tensor tensor;
    if (!view(input, tensor) || !is_float32_on_cpu(tensor) || tensor.dims > max_dims) return -1;
    int64_t shape[max_dims], elements = 1;
    const int dims = tensor.dims;
    for (int d = 0; d < dims; ++d) elements *= shape[d] = tensor.shape[d];
    if (!view(label, tensor) || !is_float32_on_cpu(tensor) || tensor.dims != dims) return -1;
    for (int d = 0; d < dims; ++d)
        if (tensor.shape[d] != shape[d]) return -1;
    return elements;
}

// DLPack's DLManagedTensorVersioned.
struct Managed {
    struct {
        uint32_t major, minor;
    } version;
    void* owner;
    void (*destroy)(Managed*);
    uint64_t flags;
    dlpack::Tensor tensor;
};

constexpr size_t alignment = 64;  // as Paddle's own

constexpr size_t aligned(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// A new tensor of the shape, or of no dimensions, and of the dtype of another one. Paddle's own way takes twice as long,
// but Paddle counts and caches the memory that it makes, so that this is for small tensors.
nb::object small_tensor(nb::handle like, bool scalar) {
    dlpack::Tensor model;
    if (!view(like, model)) throw nb::type_error("expected a tensor that offers DLPack's exchange interface");
    const int dims = scalar ? 0 : model.dims;
    int64_t bytes = model.dtype.bits / 8;
    for (int d = 0; d < dims; ++d) bytes *= model.shape[d];
    // In one piece: the description, the shape and the strides, the data.
    const size_t header = aligned(sizeof(Managed) + 2 * dims * sizeof(int64_t));
    char* const memory = static_cast<char*>(std::aligned_alloc(alignment, header + aligned(bytes)));
    if (!memory) throw std::bad_alloc();
    int64_t* const shape = reinterpret_cast<int64_t*>(memory + sizeof(Managed));
    int64_t* const strides = shape + dims;
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; --d) {
        strides[d] = step;
        step *= shape[d] = model.shape[d];
    }
    void (*const destroy)(Managed*) = [](Managed* self) { std::free(self); };
    Managed* const managed = new (memory) Managed{
        {1, 0}, nullptr, destroy, 0, {memory + header, {dlpack::cpu, 0}, dims, model.dtype, shape, strides, 0}};
    void* tensor = nullptr;
    using Give = int (*)(Managed*, void**);
    if (reinterpret_cast<Give>(exchange_api(like)->give)(managed, &tensor) != 0) throw nb::python_error();
    return nb::steal(static_cast<PyObject*>(tensor));
}

bool holds(nb::handle scalar, double expected) {
    dlpack::Tensor tensor;
    if (!view(scalar, tensor) || tensor.dims != 0 || tensor.dtype.code != dlpack::type_float ||
        tensor.device.type != dlpack::cpu)
        return false;
    const char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    if (tensor.dtype.bits == 32) return *reinterpret_cast<const float*>(data) == expected;
    return tensor.dtype.bits == 64 && *reinterpret_cast<const double*>(data) == expected;
}

// The hook that turns the gradient of a loss into that of its input. It hands over what was made together with the
// loss, if that is what the backward asks for; everything else is up to `otherwise(hook, incoming, differentiable)`.
class Hook {
    nb::object otherwise_, held_, loss_, id_;

  public:
    nb::object call, gradient;  // what was asked for; what was made for it, or None
    double made_for;            // the incoming gradient that was expected

    Hook(nb::object otherwise, nb::object call, nb::object gradient, double made_for)
        : otherwise_(otherwise), call(call), gradient(gradient), made_for(made_for) {}

    nb::object operator()(nb::object incoming) {
        if (held_.is_valid()) incoming = std::exchange(held_, nb::object());
        // Paddle tells a hook neither whether the graph is kept nor whether the gradient will be differentiated. The
        // three ways into a backward, Tensor.backward, paddle.autograd.backward and paddle.grad, know, and the one that
        // was taken is the Python function that is running. Only paddle.grad has a create_graph, and it leaves the graph
        // as it is.
        const nb::object caller = nb::borrow(PyEval_GetLocals());
        bool differentiable = false, freed = false;
        if (caller.is_valid() && PyDict_Check(caller.ptr())) {
            if (PyObject* create_graph = PyDict_GetItemString(caller.ptr(), "create_graph"))
                differentiable = PyObject_IsTrue(create_graph) == 1;
            else if (PyObject* retain_graph = PyDict_GetItemString(caller.ptr(), "retain_graph"))
                freed = PyObject_IsTrue(retain_graph) == 0;
        }
        nb::object result;
        if (!differentiable && !gradient.is_none() && holds(incoming, made_for))
            result = std::exchange(gradient, nb::none());  // not kept: Paddle may add to it
        else
            result = otherwise_(nb::find(this), incoming, differentiable);
        if (freed) call = nb::none();  // Paddle runs no node of a graph that it has freed
        return result;
    }

    // A hook above a conversion: the gradient of the loss as it was before that.
    void hold(nb::object incoming) { held_ = incoming; }

    // The hooks that the user registers on the loss get its gradient, which this one replaces: so it stays the last.
    void stay_last(nb::handle loss) {
        static PyObject* const names[] = {PyUnicode_InternFromString("_register_grad_hook"),
                                          PyUnicode_InternFromString("retain_grads")};
        const nb::object self = nb::find(this);
        loss_ = nb::steal(PyWeakref_NewRef(loss.ptr(), nullptr));
        id_ = nb::steal(PyObject_CallMethodObjArgs(loss.ptr(), names[0], self.ptr(), nullptr));
        if (!id_.is_valid()) throw nb::python_error();
        for (PyObject* name : names) {
            const nb::object method = nb::steal(PyObject_GetAttr(self.ptr(), name));
            if (PyObject_SetAttr(loss.ptr(), name, method.ptr()) != 0) throw nb::python_error();
        }
    }

    nb::object before_this(const char* name, nb::args arguments) {
        const nb::object loss = loss_();
        const nb::object type = nb::borrow(loss.type());  // the loss's own methods are those of this hook
        type.attr("_remove_grad_hook")(loss, id_);
        const nb::object result = type.attr(name)(loss, *arguments);
        id_ = type.attr("_register_grad_hook")(loss, nb::find(this));
        return result;
    }
};

}  // namespace

void bind_paddle(nb::module_ m) {
    nb::set_leak_warnings(false);  // a hook may outlive the interpreter in one of Paddle's graphs
    m.def("plain_elements", &plain_elements, nb::arg("input").none(), nb::arg("label").none());
    m.def("small_tensor", &small_tensor, nb::arg("like"), nb::arg("scalar"));
    nb::class_<Hook>(m, "Hook")
        .def(nb::init<nb::object, nb::object, nb::object, double>(), nb::arg("otherwise"), nb::arg("call"),
             nb::arg("gradient").none(), nb::arg("made_for"))
        .def("__call__", &Hook::operator())
        .def("hold", &Hook::hold)
        .def("stay_last", &Hook::stay_last)
        .def("_register_grad_hook", [](Hook& self, nb::args hook) { return self.before_this("_register_grad_hook", hook); })
        .def("retain_grads", [](Hook& self, nb::args none) { return self.before_this("retain_grads", none); })
        .def_ro("call", &Hook::call)
        .def_ro("made_for", &Hook::made_for)
        .def_rw("gradient", &Hook::gradient, nb::arg().none());
}

}  // namespace binxent
