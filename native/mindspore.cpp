// Operators for MindSpore's compiled graphs, which loads them from this library by name: mindspore.ops.Custom with
// func_type="aot". src/binxent/mindspore/operators.py is their only user.
//
// Operands, in this order, the third to the eighth possibly None: input, target, weight, sample_weight, pos_weight,
// mask, normalizer, terms (ignore_index, whether there is one, label_smoothing and gamma: four float64, since an attribute of an
// operator would be read through a C++ interface of MindSpore's); for a gradient, the incoming one; the output. All are
// contiguous.
#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"
#include "run.h"

using namespace binxent;

namespace {

enum class Reduction { none, mean, sum, batchmean, weighted_mean };

// What MindSpore calls an operator with.
struct Operands {
    int count;
    void** data;
    const int* dims;
    int64_t** shapes;
    const char** dtypes;

    bool has(int i) const { return std::strcmp(dtypes[i], "none") != 0; }

    DType dtype(int i) const {
        for (const auto& [name, dtype] : dtype_names)
            if (std::strcmp(dtypes[i], name) == 0) return dtype;
        throw std::invalid_argument(std::string("the kernel does not read ") + dtypes[i]);
    }

    View view(int i, const char* name) const { return view(i, name, dims[i], shapes[i]); }

    View view(int i, const char* name, int own_dims, const int64_t* shape) const {
        View view;
        if (!make_view(view, data[i], dtype(i), dims[0], shapes[0], own_dims, shape, nullptr))
            throw std::invalid_argument(std::string(name) + ": its shape does not broadcast to the input's shape");
        return view;
    }

    // A graph whose shapes are unknown until it runs is refused no target when it is compiled.
    void check_target() const {
        if (dims[1] == dims[0] && std::equal(shapes[0], shapes[0] + dims[0], shapes[1])) return;
        throw std::invalid_argument("target: shape " + shown_shape(1) + " must be the same as the input's, " +
                                    shown_shape(0));
    }

    std::string shown_shape(int i) const {
        std::string shown = "(";
        for (int d = 0; d < dims[i]; ++d) shown += (d ? ", " : "") + std::to_string(shapes[i][d]);
        return shown + (dims[i] == 1 ? ",)" : ")");
    }

    // Of one number: a dimensionless tensor, or the first element.
    View number(int i) const {
        View view;
        make_view(view, data[i], dtype(i), 0, nullptr, 0, nullptr, nullptr);
        return view;
    }

    // One weight for each entry of the first axis: of shape [N, 1, …, 1].
    View sample_weight(int i) const {
        int64_t column[max_dims];
        for (int d = 0; d < dims[0]; ++d) column[d] = d == 0 ? shapes[i][0] : 1;
        if (dims[i] != 1 || dims[0] < 1 || shapes[i][0] != shapes[0][0])
            throw std::invalid_argument("sample_weight: expected one weight for each entry of the input's first axis");
        return view(i, "sample_weight", dims[0], column);
    }

    int64_t size() const {
        int64_t size = 1;
        for (int d = 0; d < dims[0]; ++d) size *= shapes[0][d];
        return size;
    }
};

View element(const View& view, int64_t i) {
    View element = view;
    for (int d = view.dims - 1; d >= 0; i /= view.shape[d--]) element.data += i % view.shape[d] * view.stride[d];
    return element;
}

bool is_kept(const Job& job, int64_t i) {
    if (job.mask && read_number(element(job.mask, i)) == 0) return false;
    if (!job.ignores) return true;
    const double y = read_number(element(job.target, i));
    return y != job.ignore_index && !(y != y && job.ignore_index != job.ignore_index);
}

// MindSpore lets a NaN pass.
void check_range(const Job& job) {
    for (int64_t i = 0; i < job.size; ++i) {
        const double q = read_number(element(job.x, i));
        if ((q < 0 || q > 1) && is_kept(job, i))
            throw std::invalid_argument("all elements of input should be between 0 and 1, but element " +
                                        std::to_string(i) + " is " + std::to_string(q) +
                                        "; logits belong to binary_cross_entropy_with_logits");
    }
}

void set_terms(Job& job, const Operands& operands, int i) {
    const double* terms = static_cast<const double*>(operands.data[i]);
    if (operands.dtype(i) != DType::float64 || operands.dims[i] != 1 || operands.shapes[i][0] != 4)
        throw std::invalid_argument("terms: expected four float64");
    job.ignore_index = terms[0];
    job.ignores = terms[1] != 0;
    job.label_smoothing = terms[2];
    job.gamma = terms[3];
}

void set_divisor(Job& job, Reduction reduction, const Operands& operands) {
    if (operands.has(6)) {
        for (int d = 0; d < operands.dims[6]; ++d)
            if (operands.shapes[6][d] != 1) throw std::invalid_argument("normalizer: expected a tensor of one element");
        job.divisor = read_number(operands.number(6));
        job.nothing_is_zero = true;
    } else if (reduction == Reduction::weighted_mean && job.weights > 0) {
        job.divided_by = Divisor::weights;
    } else if (reduction == Reduction::mean || reduction == Reduction::weighted_mean) {
        if (job.selects())
            job.divided_by = Divisor::kept;
        else
            job.divisor = double(job.size);
    } else if (reduction == Reduction::batchmean) {
        if (operands.dims[0] < 1)
            throw std::invalid_argument("reduction: 'batchmean' of an input without a first axis");
        job.divisor = double(operands.shapes[0][0]);
    }
}

int run_operator(Input input, Reduction reduction, bool is_gradient, const Operands& operands) {
    const int last = operands.count - 1;
    Job job;
    job.size = operands.size();
    job.input = input;
    job.any_target = true;  // as MindSpore has it
    job.x = operands.view(0, "input");
    operands.check_target();
    job.target = operands.view(1, "target");
    if (operands.has(2)) job.weight[job.weights++] = operands.view(2, "weight");
    if (operands.has(3)) job.weight[job.weights++] = operands.sample_weight(3);
    if (operands.has(4)) job.pos_weight = operands.view(4, "pos_weight");
    if (operands.has(5)) job.mask = operands.view(5, "mask");
    if (operands.has(7)) set_terms(job, operands, 7);
    set_divisor(job, reduction, operands);
    if (is_gradient) {
        if (reduction == Reduction::none)
            job.weight[job.weights++] = operands.view(8, "the incoming gradient");
        else
            job.incoming = read_number(operands.number(8));
        job.gradient = operands.view(last, "the gradient");
    } else if (reduction == Reduction::none) {
        job.loss = operands.view(last, "the loss");
    } else {
        job.value = operands.number(last);
    }
    const unsigned outside = run(job, nullptr);
    if (outside & input_out_of_range && !is_gradient) check_range(job);
    return 0;
}

std::vector<int64_t> shape_of(const int64_t* sizes, int dims) {
    try {
        return {sizes, sizes + dims};
    } catch (const std::bad_alloc&) {
        throw OutOfMemory(dims * sizeof(int64_t));
    }
}

}  // namespace

// For each operator MindSpore looks for a second function, which tells the shape of the output where shapes are not
// known before a graph runs.
#define EXPORTED extern "C" __attribute__((visibility("default")))
#define OPERATOR(name, input, reduction, is_gradient)                                                             \
    EXPORTED int name(int count, void** data, int* dims, int64_t** shapes, const char** dtypes, void*, void*) {   \
        return run_operator(input, reduction, is_gradient, {count, data, dims, shapes, dtypes});                  \
    }                                                                                                             \
    EXPORTED std::vector<int64_t> name##InferShape(int* dims, int64_t** shapes, void*) {                          \
        if (reduction != Reduction::none && !is_gradient) return {};                                              \
        return shape_of(shapes[0], dims[0]);                                                                      \
    }
#define OPERATORS(input, reduction)                                                                               \
    OPERATOR(binxent_mindspore_##input##_##reduction, Input::input, Reduction::reduction, false)                  \
    OPERATOR(binxent_mindspore_##input##_##reduction##_gradient, Input::input, Reduction::reduction, true)

OPERATORS(logits, none)
OPERATORS(logits, mean)
OPERATORS(logits, sum)
OPERATORS(logits, batchmean)
OPERATORS(logits, weighted_mean)
OPERATORS(probabilities, none)
OPERATORS(probabilities, mean)
OPERATORS(probabilities, sum)
OPERATORS(probabilities, batchmean)
OPERATORS(probabilities, weighted_mean)
