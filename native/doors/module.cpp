// The door for Python: the module binxent._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "core/environment.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/run.h"
#include "dlpack.h"
#include "paddle.h"
#include "torch.h"
#include "xla.h"

namespace nb = nanobind;
using namespace binxent;

namespace {

struct Shape {
    int dims = 0;
    int64_t size[max_dims];

    Shape() = default;

    explicit Shape(PyObject* tuple) {
        if (!PyTuple_Check(tuple)) throw nb::type_error("shape and strides are tuples");
        const Py_ssize_t n = NB_TUPLE_GET_SIZE(tuple);
        if (n > max_dims) throw nb::value_error("more than 64 dimensions");
        for (; dims < n; ++dims) size[dims] = PyLong_AsLongLong(NB_TUPLE_GET_ITEM(tuple, dims));
        if (PyErr_Occurred()) throw nb::python_error();
    }
};

DType dtype_of(const dlpack::Tensor& tensor) {
    const int bits = tensor.dtype.bits;
    switch (tensor.dtype.lanes == 1 ? tensor.dtype.code : 255) {
        case dlpack::type_float:
            if (bits == 64) return DType::float64;
            if (bits == 32) return DType::float32;
            if (bits == 16) return DType::float16;
            break;
        case dlpack::type_bfloat:
            if (bits == 16) return DType::bfloat16;
            break;
        case dlpack::type_bool:
            if (bits == 8) return DType::boolean;
            break;
        case dlpack::type_uint:
            if (bits == 8) return DType::uint8;
            break;
        case dlpack::type_int:
            if (bits == 64) return DType::int64;
            if (bits == 32) return DType::int32;
            if (bits == 16) return DType::int16;
            if (bits == 8) return DType::int8;
            break;
    }
    throw nb::type_error("an operand is of a dtype that the kernel does not read");
}

// An operand is a tensor of a type that has DLPack's exchange interface, or a tuple (address, dtype, shape, strides in bytes
// or None if contiguous).
class Operand {
    void* data_ = nullptr;
    DType dtype_ = DType::float32;
    Shape shape_, strides_;
    bool contiguous_ = true;

    void read_tensor(PyObject* object) {
        const dlpack::ExchangeApi* const api = dlpack::exchange_api(object);
        dlpack::Tensor tensor;
        if (!api || api->view(object, &tensor) != 0) throw nb::python_error();
        if (tensor.device.type != dlpack::cpu) throw nb::value_error("an operand is not in the processor's memory");
        data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
        dtype_ = dtype_of(tensor);
        if (tensor.dims > max_dims) throw nb::value_error("more than 64 dimensions");
        shape_.dims = strides_.dims = tensor.dims;
        contiguous_ = !tensor.strides;
        for (int d = 0; d < tensor.dims; ++d) {
            shape_.size[d] = tensor.shape[d];
            if (!contiguous_) strides_.size[d] = tensor.strides[d] * element_size(dtype_);
        }
    }

    void read_tuple(PyObject* tuple) {
        if (NB_TUPLE_GET_SIZE(tuple) != 4) throw nb::type_error("an operand is a tuple of four");
        data_ = PyLong_AsVoidPtr(NB_TUPLE_GET_ITEM(tuple, 0));
        dtype_ = DType(PyLong_AsLong(NB_TUPLE_GET_ITEM(tuple, 1)));
        if (PyErr_Occurred()) throw nb::python_error();
        shape_ = Shape(NB_TUPLE_GET_ITEM(tuple, 2));
        contiguous_ = NB_TUPLE_GET_ITEM(tuple, 3) == Py_None;
        if (!contiguous_) strides_ = Shape(NB_TUPLE_GET_ITEM(tuple, 3));
        if (!contiguous_ && strides_.dims != shape_.dims) throw nb::value_error("as many strides as dimensions");
    }

  public:
    explicit Operand(nb::handle object) {
        if (PyTuple_Check(object.ptr()))
            read_tuple(object.ptr());
        else
            read_tensor(object.ptr());
    }

    const Shape& shape() const { return shape_; }

    View in(const Shape& full, const char* name) const {
        View view;
        if (!data_)
            for (int d = 0; d <= full.dims; ++d) {
                if (d == full.dims) throw std::runtime_error(std::string(name) + " has no memory");
                if (full.size[d] == 0) break;
            }
        if (!make_view(view, data_, dtype_, full.dims, full.size, shape_.dims, shape_.size,
                       contiguous_ ? nullptr : strides_.size))
            throw nb::value_error((std::string(name) + " does not broadcast to the logits' shape").c_str());
        return view;
    }

    // Packed elements along one dimension.
    struct Vector {
        char* data;
        DType dtype;
        int64_t size;
    };

    Vector vector(const char* name) const {
        const bool packed = contiguous_ || shape_.size[0] <= 1 || strides_.size[0] == element_size(dtype_);
        if (shape_.dims != 1 || !packed) throw nb::value_error((std::string(name) + " is not packed, along one axis").c_str());
        return {static_cast<char*>(data_), dtype_, shape_.size[0]};
    }

    Chunk::Array packed(const Shape& full, const char* name) const {
        bool same = shape_.dims == full.dims;
        int64_t step = element_size(dtype_);
        for (int d = full.dims - 1; same && d >= 0; step *= full.size[d--])
            same = shape_.size[d] == full.size[d] && (contiguous_ || full.size[d] == 1 || strides_.size[d] == step);
        if (!same) throw nb::value_error((std::string(name) + " is not packed, in rows, and of the shape of x").c_str());
        return {static_cast<char*>(data_), dtype_};
    }
};

Integers integers(const Operand::Vector& labels) {
    if (labels.dtype != DType::int64 && labels.dtype != DType::int32) throw nb::type_error("indices are int64 or int32");
    return {labels.data, labels.dtype == DType::int64};
}

// The fields of the named tuple SparseRows, in the order in which binxent.targets has them.
enum SparseField { of_offsets, of_indices, of_values, of_shape, of_first, sparse_fields };

bool is_sparse(nb::handle target) {
    return PyTuple_Check(target.ptr()) && NB_TUPLE_GET_SIZE(target.ptr()) == sparse_fields;
}

SparseRows read_sparse(nb::handle target, const Shape& full) {
    const auto field = [&](SparseField index) { return nb::handle(NB_TUPLE_GET_ITEM(target.ptr(), index)); };
    const Shape shape(field(of_shape).ptr());
    if (full.dims != 2 || shape.dims != 2 || shape.size[0] != full.size[0] || shape.size[1] != full.size[1])
        throw nb::value_error("a sparse target has the two dimensions of the logits");
    const Operand::Vector offsets = Operand(field(of_offsets)).vector("offsets");
    const Operand::Vector indices = Operand(field(of_indices)).vector("indices");
    if (offsets.dtype != DType::int64 || offsets.size != shape.size[0] + 1)
        throw nb::value_error("offsets are int64, one for each row and one more");
    SparseRows rows;
    rows.offsets = integers(offsets);
    rows.labels = integers(indices);
    rows.rows = shape.size[0];
    rows.columns = shape.size[1];
    rows.first = PyLong_AsLongLong(field(of_first).ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    if (const nb::handle given = field(of_values); !given.is_none()) {
        const Operand::Vector values = Operand(given).vector("values");
        if (values.size != indices.size) throw nb::value_error("as many values as indices");
        rows.values = values.data;
        rows.dtype = values.dtype;
    }
    return rows;
}

void read_target(Job& job, nb::handle target, const Shape& shape) {
    if (!is_sparse(target)) {
        job.target = Operand(target).in(shape, "target");
        return;
    }
    job.sparse_target = read_sparse(target, shape);
    job.target.dtype = job.sparse_target.dtype;
}

View optional(nb::handle object, const Shape& full, const char* name) {
    return object.is_none() ? View() : Operand(object).in(full, name);
}

double number(nb::handle object) {
    const double value = PyFloat_AsDouble(object.ptr());
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    return value;
}

// The divisor is a number, or says what the operands give.
void read_divisor(Job& job, nb::handle divisor) {
    if (!PyUnicode_Check(divisor.ptr()))
        job.divisor = number(divisor);
    else if (PyUnicode_CompareWithASCIIString(divisor.ptr(), "kept") == 0)
        job.divided_by = Divisor::kept;
    else if (PyUnicode_CompareWithASCIIString(divisor.ptr(), "weights") == 0)
        job.divided_by = Divisor::weights;
    else
        throw nb::value_error("divisor is a number, 'kept' or 'weights'");
}

// The fields of the named tuple Terms, in the order in which binxent.options has them.
enum TermField { of_ignore_index, of_label_smoothing, of_gamma, of_alpha, of_gamma_negative, of_margin, of_focal, term_fields };

// The terms are None, or a tuple that may end after gamma.
void read_terms(Job& job, nb::handle terms) {
    if (terms.is_none()) return;
    const Py_ssize_t fields = PyTuple_Check(terms.ptr()) ? NB_TUPLE_GET_SIZE(terms.ptr()) : 0;
    if (fields != of_alpha && fields != term_fields) throw nb::type_error("terms are a tuple of three, or of all");
    const auto field = [&](TermField index) { return nb::handle(NB_TUPLE_GET_ITEM(terms.ptr(), index)); };
    job.ignores = !field(of_ignore_index).is_none();
    if (job.ignores) job.ignore_index = number(field(of_ignore_index));
    job.label_smoothing = number(field(of_label_smoothing));
    job.gamma = number(field(of_gamma));
    if (fields == of_alpha) return;
    if (const nb::handle alpha = field(of_alpha); !alpha.is_none()) {
        job.share = number(alpha);
        job.other_share = 1 - job.share;
    }
    if (const nb::handle gamma = field(of_gamma_negative); !gamma.is_none()) job.gamma_negative = number(gamma);
    job.margin = number(field(of_margin));
    job.of_p_t = PyUnicode_CompareWithASCIIString(field(of_focal).ptr(), "p_t") == 0;
}

unsigned compute(bool probabilities, nb::handle x, nb::handle target, nb::handle weights, nb::handle pos_weight,
                 nb::handle mask, nb::handle terms, nb::handle loss, nb::handle value, nb::handle gradient,
                 nb::handle divisor, double incoming, size_t executor) {
    Job job;
    const Operand logits(x);
    const Shape& shape = logits.shape();
    job.size = 1;
    for (int d = 0; d < shape.dims; ++d) job.size *= shape.size[d];
    job.input = probabilities ? Input::probabilities : Input::logits;
    job.incoming = incoming;
    read_divisor(job, divisor);
    read_terms(job, terms);
    if (!PyTuple_Check(weights.ptr()) || NB_TUPLE_GET_SIZE(weights.ptr()) > max_weights)
        throw nb::type_error("weights is a tuple of at most four operands");
    job.weights = int(NB_TUPLE_GET_SIZE(weights.ptr()));
    job.x = logits.in(shape, "x");
    read_target(job, target, shape);
    for (int k = 0; k < job.weights; ++k)
        job.weight[k] = Operand(NB_TUPLE_GET_ITEM(weights.ptr(), k)).in(shape, "weight");
    job.pos_weight = optional(pos_weight, shape, "pos_weight");
    job.mask = optional(mask, shape, "mask");
    job.loss = optional(loss, shape, "loss");
    job.gradient = optional(gradient, shape, "gradient");
    job.value = optional(value, Shape(), "value");
    if (job.size < block_size) return run(job, nullptr);
    nb::gil_scoped_release released;
    return run(job, reinterpret_cast<ParallelFor>(executor));
}

// The fields of the named tuples Call, Operands and Outputs, in the order in which binxent.call and .kernels have them.
enum CallField { call_loss, call_reduction, call_dtype, call_terms, call_divisor, call_any_target, call_checks_targets };
enum OperandField {
    of_input, of_target, of_weight, of_sample_weight, of_pos_weight, of_mask, of_neg_weight = 9, operand_fields
};
enum OutputField { to_elements, to_total, to_gradient, to_hessian, to_expected_hessian, output_fields };

nb::handle field(nb::handle tuple, int index) {
    if (!PyTuple_Check(tuple.ptr()) || NB_TUPLE_GET_SIZE(tuple.ptr()) <= index)
        throw nb::type_error("a Call, Operands and Outputs are their named tuples");
    return NB_TUPLE_GET_ITEM(tuple.ptr(), index);
}

bool is_true(nb::handle object) {
    const int truth = PyObject_IsTrue(object.ptr());
    if (truth < 0) throw nb::python_error();
    return truth;
}

// Sets all of the job but the outputs, the divisor and the incoming gradient. Returns the shape of the input.
Shape plan_job(Job& job, nb::handle call, nb::handle operands) {
    const Operand input(field(operands, of_input));
    const Shape shape = input.shape();
    job.size = 1;
    for (int d = 0; d < shape.dims; ++d) job.size *= shape.size[d];
    static PyObject* const name = PyUnicode_InternFromString("probabilities");
    const nb::object probabilities = nb::steal(PyObject_GetAttr(field(call, call_loss).ptr(), name));
    if (!probabilities.is_valid()) throw nb::python_error();
    job.input = is_true(probabilities) ? Input::probabilities : Input::logits;
    job.any_target = is_true(field(call, call_any_target));
    job.checks_targets = is_true(field(call, call_checks_targets));
    read_terms(job, field(call, call_terms));
    job.x = input.in(shape, "input");
    read_target(job, field(operands, of_target), shape);
    for (const OperandField weight : {of_weight, of_sample_weight})
        if (const nb::handle given = field(operands, weight); !given.is_none())
            job.weight[job.weights++] = Operand(given).in(shape, "weight");
    job.pos_weight = optional(field(operands, of_pos_weight), shape, "pos_weight");
    job.neg_weight = optional(field(operands, of_neg_weight), shape, "neg_weight");
    job.mask = optional(field(operands, of_mask), shape, "mask");
    return shape;
}

template <class Run>
auto run_planned(const Job& job, size_t executor, Run run) {
    if (job.size < block_size) return run(ParallelFor(nullptr));
    nb::gil_scoped_release released;
    return run(reinterpret_cast<ParallelFor>(executor));
}

// A caller that knows its kernel may leave both out.
void read_hessian(Job& job, nb::handle outputs, const Shape& shape) {
    job.hessian = optional(field(outputs, to_hessian), shape, "hessian");
    const nb::handle expected = field(outputs, to_expected_hessian);
    if (expected.is_none()) return;
    if (job.hessian) throw nb::value_error("a hessian and an expected one are not written in one call");
    job.hessian = Operand(expected).in(shape, "expected_hessian");
    job.expects = true;
}

unsigned compute_call(nb::handle call, nb::handle operands, nb::handle outputs, nb::handle divisor, nb::handle incoming,
                      size_t executor) {
    Job job;
    const Shape shape = plan_job(job, call, operands);
    const nb::handle planned = field(call, call_divisor);
    read_divisor(job, divisor.is_none() ? planned : divisor);
    job.nothing_is_zero = PyUnicode_Check(planned.ptr());
    if (PyFloat_Check(incoming.ptr()) || PyLong_Check(incoming.ptr()))
        job.incoming = number(incoming);
    else  // one number for each element is a weight like any other
        job.weight[job.weights++] = Operand(incoming).in(shape, "incoming");
    job.loss = optional(field(outputs, to_elements), shape, "loss");
    job.value = optional(field(outputs, to_total), Shape(), "value");
    job.gradient = optional(field(outputs, to_gradient), shape, "gradient");
    if (NB_TUPLE_GET_SIZE(outputs.ptr()) == output_fields) read_hessian(job, outputs, shape);
    return run_planned(job, executor, [&](ParallelFor lent) { return run(job, lent); });
}

double measure_call(nb::handle call, nb::handle operands, size_t executor) {
    Job job;
    plan_job(job, call, operands);
    read_divisor(job, field(call, call_divisor));
    if (job.divided_by == Divisor::given) return job.divisor;
    return run_planned(job, executor, [&](ParallelFor lent) { return measure(job, lent); });
}

// Whether each operand is one that this door can read. Learnt options and a normalizer are not: it takes numbers.
bool reads(nb::handle operands) noexcept {
    try {
        for (int k = of_input; k < operand_fields; ++k) {
            const nb::handle operand = field(operands, k);
            if (k > of_mask && k != of_neg_weight && !operand.is_none()) return false;
            if (k == of_target && is_sparse(operand))
                read_sparse(operand, Operand(field(operands, of_input)).shape());
            else if (k <= of_target || !operand.is_none())
                Operand{operand};
        }
        return true;
    } catch (nb::python_error&) {
        return false;
    } catch (std::exception&) {
        PyErr_Clear();
        return false;
    }
}

// Checks labels, in rows of `width` places or between offsets; where outputs are given, writes them sorted. Returns the fault,
// where it is, and whether the labels were sorted already.
std::tuple<int, int64_t, int64_t, bool> read_labels(nb::handle offsets, nb::handle labels, int64_t width, int64_t num_labels,
                                                    nb::handle padding, bool is_set, nb::handle outputs) {
    const Operand::Vector given = Operand(labels).vector("indices");
    StoredLabels stored;
    stored.labels = integers(given);
    stored.size = given.size;
    stored.width = width;
    stored.num_labels = num_labels;
    stored.is_set = is_set;
    if (offsets.is_none()) {
        stored.rows = width ? given.size / width : 0;
    } else {
        const Operand::Vector bounds = Operand(offsets).vector("offsets");
        if (bounds.dtype != DType::int64 || bounds.size < 1) throw nb::value_error("offsets are int64, and at least one");
        stored.offsets = reinterpret_cast<const int64_t*>(bounds.data);
        stored.rows = bounds.size - 1;
    }
    if (!padding.is_none()) {
        stored.pads = true;
        stored.padding = PyLong_AsLongLong(padding.ptr());
        if (PyErr_Occurred()) throw nb::python_error();
    }
    Findings found;
    if (outputs.is_none()) {
        found = check(stored);
    } else {
        const auto into = [&](int index) { return Operand(field(outputs, index)).vector("an output").data; };
        int64_t* const places = field(outputs, 2).is_none() ? nullptr : reinterpret_cast<int64_t*>(into(2));
        found = sort(stored, {reinterpret_cast<int64_t*>(into(0)), into(1), places});
    }
    return {int(found.fault), found.row, found.label, found.is_canonical};
}

using Addresses = std::tuple<size_t, size_t, size_t, size_t, size_t, size_t>;

// Returns a flag of job.h, and how many elements have been counted.
std::pair<unsigned, int64_t> count_chunk(bool probabilities, nb::handle x, nb::handle target, nb::handle loss,
                                         nb::handle known, double threshold, int64_t calibration_bins,
                                         std::tuple<size_t, int, int32_t> score_bins, int64_t done, Addresses tables) {
    Chunk chunk;
    const Operand scores(x);
    const Shape& shape = scores.shape();
    if (shape.dims != 2) throw nb::value_error("x is not of two dimensions");
    chunk.rows = shape.size[0];
    chunk.labels = shape.size[1];
    if (chunk.rows > max_rows_in_cell) throw nb::value_error("more rows than a cell can count");
    chunk.input = probabilities ? Input::probabilities : Input::logits;
    chunk.threshold = threshold;
    chunk.calibration_bins = calibration_bins;
    chunk.pages = reinterpret_cast<const int32_t*>(std::get<0>(score_bins));
    chunk.bin_shift = std::get<1>(score_bins);
    chunk.score_bins = std::get<2>(score_bins);
    chunk.done = done;
    chunk.x = scores.packed(shape, "x");
    chunk.target = Operand(target).packed(shape, "target");
    if (!loss.is_none()) chunk.loss = Operand(loss).packed(shape, "loss");
    if (!known.is_none())
        chunk.known = reinterpret_cast<const uint8_t*>(Operand(known).packed(shape, "known").data);
    chunk.loss_sum = reinterpret_cast<double*>(std::get<0>(tables));
    chunk.loss_lost = reinterpret_cast<double*>(std::get<1>(tables));
    chunk.cells = reinterpret_cast<uint64_t*>(std::get<2>(tables));
    chunk.softness = reinterpret_cast<double*>(std::get<3>(tables));
    chunk.scores = reinterpret_cast<uint32_t*>(std::get<4>(tables));
    chunk.loss_waiting = reinterpret_cast<double*>(std::get<5>(tables));
    if (chunk.rows * chunk.labels == 0) return {0, 0};
    nb::gil_scoped_release released;
    const unsigned flag = count(chunk);
    return {flag, chunk.done};
}

using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

Bytes new_bytes(size_t size) {
    std::unique_ptr<Memory> memory(new Memory(size));
    void* const data = memory->data();
    const nb::capsule owner(memory.get(), [](void* self) noexcept { delete static_cast<Memory*>(self); });
    memory.release();
    return Bytes(data, {size}, owner);
}

// Warns of a variable that is set to something that is not understood, which then counts as not set.
void warn_of(const char* variable, int64_t lowest, int64_t highest) {
    const char* const value = std::getenv(variable);
    if (!value || !*value || number_in(variable, lowest, highest) >= 0) return;
    const std::string expected = "a whole number from " + std::to_string(lowest) + " to " + std::to_string(highest);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%s='%s' is ignored: expected %s", variable, value, expected.c_str()))
        throw nb::python_error();
}

}  // namespace

NB_MODULE(_native, m) {
    warn_of(num_threads_variable, 1, most_threads);
    warn_of(max_kept_variable, 0, most_kept_mib);
    if (!instruction_set())
        throw nb::import_error("BINXENT_ISA names an instruction set that this machine or this build of binxent lacks");
    m.def("compute", &compute, nb::arg("probabilities"), nb::arg("x"), nb::arg("target"),
          nb::arg("weights"), nb::arg("pos_weight").none(), nb::arg("mask").none(), nb::arg("terms").none(),
          nb::arg("loss").none(), nb::arg("value").none(), nb::arg("gradient").none(), nb::arg("divisor"),
          nb::arg("incoming"), nb::arg("executor"));
    m.def("compute_call", &compute_call, nb::arg("call"), nb::arg("operands"), nb::arg("outputs"),
          nb::arg("divisor") = nb::none(), nb::arg("incoming") = 1.0, nb::arg("executor") = 0);
    m.def("measure_call", &measure_call, nb::arg("call"), nb::arg("operands"), nb::arg("executor") = 0);
    m.def("reads", &reads, nb::arg("operands"));
    m.def("read_labels", &read_labels, nb::arg("offsets").none(), nb::arg("labels"), nb::arg("width"), nb::arg("num_labels"),
          nb::arg("padding").none(), nb::arg("is_set"), nb::arg("outputs") = nb::none());
    m.def("count", &count_chunk, nb::arg("probabilities"), nb::arg("x"), nb::arg("target"), nb::arg("loss").none(),
          nb::arg("known").none(), nb::arg("threshold"), nb::arg("calibration_bins"), nb::arg("score_bins"),
          nb::arg("done"), nb::arg("tables"));
    m.def("new_tensor", &dlpack::new_tensor, nb::arg("like"), nb::arg("scalar"));
    m.def("new_bytes", &new_bytes, nb::arg("size"));
    m.def("release_memory", &release_memory);
    m.attr("LARGE_MEMORY") = large_memory;
    m.def("runs", &runs_so_far);
    m.def("num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads, nb::arg("threads"));
    m.def("set_default_num_threads", &set_default_num_threads, nb::arg("threads"));
    m.attr("instruction_set") = instruction_set();
    m.attr("MAX_ROWS_IN_CELL") = max_rows_in_cell;
    m.attr("CELL_COUNT_SHIFT") = cell_count_shift;
    m.attr("PROBABILITY_BITS") = probability_bits;
    m.attr("SCORE_PADDING") = score_padding;
    m.attr("SCORE_PAGE_SHIFT") = page_shift;
    m.attr("SCORE_WITHOUT_BIN") = score_without_bin;
    m.def("loss_sums", &loss_sums, nb::arg("labels"));
    m.attr("INPUT_OUT_OF_RANGE") = input_out_of_range;
    m.attr("TARGET_OUT_OF_RANGE") = target_out_of_range;
    m.attr("WRONG_TARGETS") = negative_pos_weight | negative_neg_weight | mask_not_binary;
    m.attr("xla_handler") = nb::capsule(reinterpret_cast<void*>(&xla_handler));
    m.def(
        "register_torch_operators",
        [](size_t library, size_t executor) {
            return register_torch_operators(reinterpret_cast<void*>(library), reinterpret_cast<ParallelFor>(executor));
        },
        nb::arg("library"), nb::arg("executor"));
    bind_paddle(m.def_submodule("paddle"));
    nb::dict dtypes;
    for (const auto& [name, dtype] : dtype_names) dtypes[name] = int(dtype);
    m.attr("DTYPES") = dtypes;
}
