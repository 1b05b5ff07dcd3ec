#include "paddle.h"

#include <utility>

#include "core/view.h"
#include "dlpack.h"

namespace nb = nanobind;

namespace binxent {

namespace {

// Returns false for a tensor that offers no such view. Paddle's tensors do since version 3.3.
bool view(nb::handle tensor, dlpack::Tensor& out) {
    const dlpack::ExchangeApi* api = dlpack::exchange_api(tensor);
    if (api && api->view(tensor.ptr(), &out) == 0) return true;
    PyErr_Clear();
    return false;
}

bool is_float32_on_cpu(const dlpack::Tensor& tensor) {
    return tensor.device.type == dlpack::cpu && tensor.dtype.code == dlpack::type_float && tensor.dtype.bits == 32 &&
           tensor.dtype.lanes == 1;
}

// Returns how many elements two float32 tensors of one shape have, in the processor's memory; −1 for any other tensors.
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

bool holds(nb::handle scalar, double expected) {
    dlpack::Tensor tensor;
    if (!view(scalar, tensor) || tensor.dims != 0 || tensor.dtype.code != dlpack::type_float ||
        tensor.device.type != dlpack::cpu)
        return false;
    const char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    if (tensor.dtype.bits == 32) return *reinterpret_cast<const float*>(data) == expected;
    return tensor.dtype.bits == 64 && *reinterpret_cast<const double*>(data) == expected;
}

// The hook that turns the gradient of a loss into that of its input. If the backward asks for what was made together with the
// loss, the hook hands it over. For everything else it calls `otherwise(hook, incoming, differentiable)`.
class Hook {
    nb::object otherwise_, held_, loss_, id_;

  public:
    nb::object call, gradient;  // what was asked for; what was made for it, or None
    double made_for;            // the incoming gradient that was expected

    Hook(nb::object otherwise, nb::object call, nb::object gradient, double made_for)
        : otherwise_(otherwise), call(call), gradient(gradient), made_for(made_for) {}

    nb::object operator()(nb::object incoming) {
        if (held_.is_valid()) incoming = std::exchange(held_, nb::object());
        // Paddle tells a hook neither whether the graph will be used again nor whether the gradient will be differentiated.
        // But the function that was called knows: Tensor.backward, paddle.autograd.backward or paddle.grad. It is the
        // Python function that is running, so its local variables tell. Only paddle.grad has a create_graph, and it leaves
        // the graph as it is.
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
            result = std::exchange(gradient, nb::none());  // handed over for good, since Paddle may add to it
        else
            result = otherwise_(nb::find(this), incoming, differentiable);
        if (freed) call = nb::none();  // the operands are not needed: Paddle runs no node of a graph that it has freed
        return result;
    }

    // A hook that stands above a conversion of the loss passes on the gradient as it was before that conversion.
    void hold(nb::object incoming) { held_ = incoming; }

    // This hook replaces the gradient of the loss, which the hooks of the user must see. So it stays the last one.
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
    nb::set_leak_warnings(false);  // one of Paddle's graphs may keep a hook longer than the interpreter lives
    m.def("plain_elements", &plain_elements, nb::arg("input").none(), nb::arg("label").none());
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
