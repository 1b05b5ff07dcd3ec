// The Python binding. kernel.py is its only caller.
#include <nanobind/nanobind.h>

#include <string>
#include <utility>

#include "run.h"

namespace nb = nanobind;
using namespace binxent;

namespace {

constexpr std::pair<const char*, DType> dtype_names[] = {
    {"float64", DType::float64}, {"float32", DType::float32}, {"bfloat16", DType::bfloat16},
    {"float16", DType::float16}, {"bool", DType::boolean},    {"uint8", DType::uint8},
    {"int8", DType::int8},       {"int16", DType::int16},     {"int32", DType::int32},
    {"int64", DType::int64},
};

struct Shape {
    int dims = 0;
    int64_t size[max_dims];

    Shape() = default;

    explicit Shape(PyObject* tuple) {
        if (!PyTuple_Check(tuple)) throw nb::type_error("shape and strides are tuples");
        const Py_ssize_t n = PyTuple_GET_SIZE(tuple);
        if (n > max_dims) throw nb::value_error("more than 64 dimensions");
        for (; dims < n; ++dims) size[dims] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, dims));
        if (PyErr_Occurred()) throw nb::python_error();
    }
};

// An operand is None or (address, dtype, shape, strides in bytes or None if contiguous).
void read_operand(View& view, nb::handle operand, const Shape& full, const char* name) {
    if (operand.is_none()) return;
    PyObject* o = operand.ptr();
    if (!PyTuple_Check(o) || PyTuple_GET_SIZE(o) != 4) throw nb::type_error("an operand is a tuple of four");
    void* address = PyLong_AsVoidPtr(PyTuple_GET_ITEM(o, 0));
    const long dtype = PyLong_AsLong(PyTuple_GET_ITEM(o, 1));
    if (PyErr_Occurred()) throw nb::python_error();
    const Shape shape(PyTuple_GET_ITEM(o, 2));
    PyObject* strides = PyTuple_GET_ITEM(o, 3);
    bool broadcasts;
    if (strides == Py_None) {
        broadcasts = make_view(view, address, DType(dtype), full.dims, full.size, shape.dims, shape.size, nullptr);
    } else {
        const Shape steps(strides);
        broadcasts = steps.dims == shape.dims &&
                     make_view(view, address, DType(dtype), full.dims, full.size, shape.dims, shape.size, steps.size);
    }
    if (!broadcasts) throw nb::value_error((std::string(name) + " does not broadcast to the logits' shape").c_str());
}

unsigned compute(bool probabilities, nb::handle x, nb::handle target, nb::handle weights, nb::handle pos_weight,
                 nb::handle loss, nb::handle value, nb::handle gradient, double divisor, double factor,
                 size_t executor) {
    Job job;
    if (!PyTuple_Check(x.ptr()) || PyTuple_GET_SIZE(x.ptr()) != 4) throw nb::type_error("x is a tuple of four");
    const Shape shape(PyTuple_GET_ITEM(x.ptr(), 2));
    job.size = 1;
    for (int d = 0; d < shape.dims; ++d) job.size *= shape.size[d];
    job.input = probabilities ? Input::probabilities : Input::logits;
    job.divisor = divisor;
    job.factor = factor;
    if (!PyTuple_Check(weights.ptr()) || PyTuple_GET_SIZE(weights.ptr()) > max_weights)
        throw nb::type_error("weights is a tuple of at most four operands");
    job.weights = int(PyTuple_GET_SIZE(weights.ptr()));
    read_operand(job.x, x, shape, "x");
    read_operand(job.target, target, shape, "target");
    for (int k = 0; k < job.weights; ++k)
        read_operand(job.weight[k], PyTuple_GET_ITEM(weights.ptr(), k), shape, "weight");
    read_operand(job.pos_weight, pos_weight, shape, "pos_weight");
    read_operand(job.loss, loss, shape, "loss");
    read_operand(job.gradient, gradient, shape, "gradient");
    read_operand(job.value, value, Shape(), "value");
    if (job.size < block_size) return run(job, nullptr);
    nb::gil_scoped_release released;
    return run(job, reinterpret_cast<ParallelFor>(executor));
}

}  // namespace

NB_MODULE(_native, m) {
    if (!instruction_set())
        throw nb::import_error("BINXENT_ISA names an instruction set that this machine or this build of binxent lacks");
    m.def("compute", &compute, nb::arg("probabilities"), nb::arg("x").none(), nb::arg("target").none(),
          nb::arg("weights"), nb::arg("pos_weight").none(), nb::arg("loss").none(), nb::arg("value").none(),
          nb::arg("gradient").none(), nb::arg("divisor"), nb::arg("factor"), nb::arg("executor"));
    m.def("runs", &runs_so_far);
    m.def("num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads, nb::arg("threads"));
    m.attr("instruction_set") = instruction_set();
    m.attr("INPUT_OUT_OF_RANGE") = input_out_of_range;
    m.attr("TARGET_OUT_OF_RANGE") = target_out_of_range;
    nb::dict dtypes;
    for (const auto& [name, dtype] : dtype_names) dtypes[name] = int(dtype);
    m.attr("DTYPES") = dtypes;
}
