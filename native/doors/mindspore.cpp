// Operators for MindSpore's compiled graphs, which load them from this library by name: mindspore.ops.Custom with
// func_type="aot". src/binxent/mindspore/operators.py is their only user.
//
// The operands are, in this order: those of enum Place; for a gradient, the incoming one; and the output. All are contiguous,
// and any from weight to terms may be None. `terms` holds the float64 of enum Term. They are an operand because an
// operator's attributes would have to be read through a C++ interface of MindSpore's.
#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/run.h"
#include "core/wrong.h"

using namespace binxent;

namespace {

enum Place {
    of_input, of_target, of_weight, of_sample_weight, of_pos_weight, of_mask, of_normalizer, of_neg_weight, of_terms,
    of_incoming
};

// A gamma_negative of −1 is gamma; the shares are alpha and 1 − alpha, or 1 and 1.
enum Term {
    ignore_index, ignores, label_smoothing, gamma, gamma_negative, margin, share, other_share, of_p_t, checks_targets, terms
};

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

    // Where shapes are unknown until a graph runs, the compiler could not refuse a target. So it is done here.
    void check_target() const {
        if (dims[of_target] == dims[0] && std::equal(shapes[0], shapes[0] + dims[0], shapes[of_target])) return;
        throw std::invalid_argument("target: shape " + shown_shape(of_target) + " must be the same as the input's, " +
                                    shown_shape(of_input));
    }

    std::string shown_shape(int i) const {
        std::string shown = "(";
        for (int d = 0; d < dims[i]; ++d) shown += (d ? ", " : "") + std::to_string(shapes[i][d]);
        return shown + (dims[i] == 1 ? ",)" : ")");
    }

    // The view of one number: of a dimensionless tensor, or of the first element.
    View number(int i) const {
        View view;
        make_view(view, data[i], dtype(i), 0, nullptr, 0, nullptr, nullptr);
        return view;
    }

    // The view of one weight for each entry of the first axis, in the shape [N, 1, …, 1].
    View sample_weight(int i) const {
        int64_t column[max_dims];
        for (int d = 0; d < dims[0]; ++d) column[d] = d == 0 ? shapes[i][0] : 1;
        if (dims[i] != 1 || dims[0] < 1 || shapes[i][0] != shapes[0][0])
            throw std::invalid_argument("sample_weight: expected one weight for each entry of the input's first axis");
        return view(i, "sample_weight", dims[0], column);
    }

    GivenShape given(int i) const { return has(i) ? GivenShape{dims[i], shapes[i]} : GivenShape{}; }

    int64_t size() const {
        int64_t size = 1;
        for (int d = 0; d < dims[0]; ++d) size *= shapes[0][d];
        return size;
    }
};

View element(const View& view, int64_t i) {
    View element = view;
    element.data = address_of(view, i);
    return element;
}

bool is_kept(const Job& job, int64_t i) {
    if (job.mask && read_number(element(job.mask, i)) == 0) return false;
    if (!job.ignores) return true;
    const double y = read_number(element(job.target, i));
    return y != job.ignore_index && !(y != y && job.ignore_index != job.ignore_index);
}

// Throws for the first element that is kept and out of range. MindSpore lets a NaN pass, and so does this.
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
    const double* given = static_cast<const double*>(operands.data[i]);
    if (operands.dtype(i) != DType::float64 || operands.dims[i] != 1 || operands.shapes[i][0] != terms)
        throw std::invalid_argument("terms: expected " + std::to_string(terms) + " float64");
    job.ignore_index = given[ignore_index];
    job.ignores = given[ignores] != 0;
    job.label_smoothing = given[label_smoothing];
    job.gamma = given[gamma];
    job.gamma_negative = given[gamma_negative];
    job.margin = given[margin];
    job.share = given[share];
    job.other_share = given[other_share];
    job.of_p_t = given[of_p_t] != 0;
    job.checks_targets = given[checks_targets] != 0;
}

void set_divisor(Job& job, Reduction reduction, const Operands& operands) {
    if (operands.has(of_normalizer)) {
        for (int d = 0; d < operands.dims[of_normalizer]; ++d)
            if (operands.shapes[of_normalizer][d] != 1)
                throw std::invalid_argument("normalizer: expected a tensor of one element");
        job.divisor = read_number(operands.number(of_normalizer));
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
    job.x = operands.view(of_input, "input");
    operands.check_target();
    job.target = operands.view(of_target, "target");
    if (operands.has(of_weight)) job.weight[job.weights++] = operands.view(of_weight, "weight");
    if (operands.has(of_sample_weight)) job.weight[job.weights++] = operands.sample_weight(of_sample_weight);
    if (operands.has(of_pos_weight)) job.pos_weight = operands.view(of_pos_weight, "pos_weight");
    if (operands.has(of_mask)) job.mask = operands.view(of_mask, "mask");
    if (operands.has(of_neg_weight)) job.neg_weight = operands.view(of_neg_weight, "neg_weight");
    if (operands.has(of_terms)) set_terms(job, operands, of_terms);
    job.any_target = !job.checks_targets;  // MindSpore takes any
    set_divisor(job, reduction, operands);
    if (is_gradient) {
        if (reduction == Reduction::none)
            job.weight[job.weights++] = operands.view(of_incoming, "the incoming gradient");
        else
            job.incoming = read_number(operands.number(of_incoming));
        job.gradient = operands.view(last, "the gradient");
    } else if (reduction == Reduction::none) {
        job.loss = operands.view(last, "the loss");
    } else {
        job.value = operands.number(last);
    }
    const unsigned outside = run(job, nullptr);
    if (outside & input_out_of_range && !is_gradient) check_range(job);
    // A graph that wants a gradient only has no operator for the loss, so that of the gradient refuses targets too.
    if (const unsigned wrong = outside & ~input_out_of_range; wrong && job.checks_targets)
        throw std::invalid_argument(wrong_element(
            job, wrong,
            {operands.given(of_input), operands.given(of_pos_weight), operands.given(of_neg_weight), operands.given(of_mask)}));
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

// For each operator MindSpore looks for a second function. It tells the shape of the output where shapes are unknown before
// a graph runs.
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
