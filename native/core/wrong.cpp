#include "wrong.h"

#include <cstdio>

#include "run.h"

namespace binxent {
namespace {

double at(View view, int64_t element) {
    View number;
    number.data = address_of(view, element);
    number.dtype = view.dtype;
    return read_number(number);
}

bool is_kept(const Job& job, int64_t element) {
    if (job.mask && at(job.mask, element) == 0) return false;
    if (!job.ignores || job.sparse_target) return true;
    const double target = at(job.target, element);
    return job.ignore_index != job.ignore_index ? target == target : target != job.ignore_index;
}

// Returns the index, in an operand, of the element that has this number among the logits.
std::string place(int64_t element, const GivenShape& logits, const GivenShape& operand) {
    std::string index;
    for (int d = 1; d <= operand.dims; ++d) {
        const int64_t size = logits.size[logits.dims - d], own = operand.size[operand.dims - d];
        index = std::to_string(own == 1 ? 0 : element % size) + (index.empty() ? "" : ", ") + index;
        element /= size;
    }
    return operand.dims ? "[" + index + "]" : "";
}

}  // namespace

std::string wrong_element(const Job& job, unsigned flags, const GivenShapes& given) {
    const struct {
        unsigned flag;
        const char* name;
        View view;
        GivenShape shape;
        bool (*is_wrong)(double);
        const char* expected;
    } checks[] = {
        {input_out_of_range, "input", job.x, given.logits, [](double v) { return !(v >= 0 && v <= 1); },
         "expected a number between 0 and 1 in each element"},
        {target_out_of_range, "target", job.target, given.logits, [](double v) { return !(v >= 0 && v <= 1); },
         "expected a number between 0 and 1 in each element"},
        {negative_pos_weight, "pos_weight", job.pos_weight, given.pos_weight, [](double v) { return v < 0; },
         "expected no negative weight"},
        {negative_neg_weight, "neg_weight", job.neg_weight, given.neg_weight, [](double v) { return v < 0; },
         "expected no negative weight"},
        {mask_not_binary, "mask", job.mask, given.mask, [](double v) { return v != 0 && v != 1; },
         "expected 0 or 1 in each element, such as a boolean mask"},
    };
    for (const auto& check : checks) {
        if (!(flags & check.flag)) continue;
        const std::string name = check.name;
        if (!check.view) return name + ": a value of the sparse target is wrong; " + check.expected;
        for (int64_t i = 0; i < job.size; ++i) {
            const double value = at(check.view, i);
            if (!check.is_wrong(value) || (check.flag != mask_not_binary && !is_kept(job, i))) continue;
            char number[32];
            std::snprintf(number, sizeof number, "%.9g", value);
            return name + ": " + name + place(i, given.logits, check.shape) + " is " + number + "; " + check.expected;
        }
    }
    return "an operand is wrong";
}

}  // namespace binxent
