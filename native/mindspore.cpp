// Operators for MindSpore's compiled graphs, which loads them from this library by name: mindspore.ops.Custom with
// func_type="aot". src/binxent/mindspore/graph.py is their only user.
//
// Operands, in this order, the third to the fifth possibly None: input, target, weight, sample_weight, pos_weight; for a
// gradient, the incoming one; the output. All are contiguous.
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "run.h"

using namespace binxent;

namespace {

enum class Reduction { none, mean, sum };

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

// MindSpore lets a NaN pass.
void check_range(const Operands& operands) {
    View element = operands.number(0);
    for (int64_t i = 0, size = operands.size(); i < size; ++i, element.data += element_size(element.dtype)) {
        const double q = read_factor(element, 1);
        if (q < 0 || q > 1)
            throw std::invalid_argument("all elements of input should be between 0 and 1, but element " +
                                        std::to_string(i) + " is " + std::to_string(q) +
                                        "; logits belong to binary_cross_entropy_with_logits");
    }
}

int run_operator(Input input, Reduction reduction, bool is_gradient, const Operands& operands) {
    const int last = operands.count - 1;
    Job job;
    job.size = operands.size();
    job.input = input;
    job.any_target = true;  // as MindSpore has it
    job.divisor = reduction == Reduction::mean ? double(job.size) : 1;
    job.x = operands.view(0, "input");
    job.target = operands.view(1, "target");
    if (operands.has(2)) job.weight[job.weights++] = operands.view(2, "weight");
    if (operands.has(3)) job.weight[job.weights++] = operands.sample_weight(3);
    if (operands.has(4)) job.pos_weight = operands.view(4, "pos_weight");
    if (is_gradient) {
        if (reduction == Reduction::none)
            job.weight[job.weights++] = operands.view(5, "the incoming gradient");
        else
            job.factor = read_factor(operands.number(5), job.divisor);
        job.gradient = operands.view(last, "the gradient");
    } else if (reduction == Reduction::none) {
        job.loss = operands.view(last, "the loss");
    } else {
        job.value = operands.number(last);
    }
    const unsigned outside = run(job, nullptr);
    if (outside & input_out_of_range && !is_gradient) check_range(operands);
    return 0;
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
        return {shapes[0], shapes[0] + dims[0]};                                                                  \
    }
#define OPERATORS(input, reduction)                                                                               \
    OPERATOR(binxent_mindspore_##input##_##reduction, Input::input, Reduction::reduction, false)                  \
    OPERATOR(binxent_mindspore_##input##_##reduction##_gradient, Input::input, Reduction::reduction, true)

OPERATORS(logits, none)
OPERATORS(logits, mean)
OPERATORS(logits, sum)
OPERATORS(probabilities, none)
OPERATORS(probabilities, mean)
OPERATORS(probabilities, sum)
