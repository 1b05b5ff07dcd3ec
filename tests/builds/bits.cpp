// Prints a digest of what the kernel computes, for each dtype and option: a name and a number in each line. The operands are
// made by additions and multiplications alone, so that every machine has the same.
//
// For 64-bit Arm, beside g++-aarch64-linux-gnu and qemu-user: compile native/lanes/*.cpp with -O3 -fno-math-errno
// -fno-trapping-math -ffp-contract=off -DBINXENT_ISA=neon, and native/core/*.cpp and this file with -O3, all with -std=gnu++17
// -Inative; link them with -static; run it by qemu-aarch64. On x86-64, link the objects of the three kernels that CMake has
// made, and choose one by BINXENT_ISA.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/isa.h"
#include "core/run.h"

using namespace binxent;

namespace {

constexpr int64_t size = 3 * block_size + 77;

uint64_t state = 88172645463325252u;

double uniform() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return double(state >> 11) * 0x1p-53;
}

uint16_t half_of(uint32_t bits) {
    const int exponent = int(bits >> 23 & 0xff) - 127;
    const uint32_t sign = bits >> 16 & 0x8000, digits = bits >> 13 & 0x3ff;
    if (exponent > 15) return uint16_t(sign | 0x7c00 | (exponent == 128 ? digits : 0));
    return uint16_t(exponent < -14 ? sign : sign | uint32_t(exponent + 15) << 10 | digits);
}

struct Array {
    std::vector<char> memory;
    DType dtype;

    explicit Array(DType dtype, int64_t n = size) : memory(size_t(n * element_size(dtype))), dtype(dtype) {}

    // Cuts off the digits that the dtype does not have.
    void set(int64_t i, double value) {
        char* const to = &memory[size_t(i * element_size(dtype))];
        const float single = float(value);
        uint32_t bits;
        memcpy(&bits, &single, 4);
        const uint16_t high = uint16_t(bits >> 16), half = half_of(bits);
        if (dtype == DType::float64) memcpy(to, &value, 8);
        else if (dtype == DType::float32) memcpy(to, &bits, 4);
        else if (dtype == DType::bfloat16) memcpy(to, &high, 2);
        else if (dtype == DType::float16) memcpy(to, &half, 2);
        else *to = char(value);
    }

    View view() {
        View v;
        const int64_t shape[] = {int64_t(memory.size()) / element_size(dtype)};
        make_view(v, memory.data(), dtype, 1, shape, 1, shape, nullptr);
        return v;
    }

    // FNV-1a of the elements' bits, with one NaN for all: which NaN an operation passes on differs between processors.
    uint64_t digest(uint64_t hash) const {
        const size_t width = size_t(element_size(dtype));
        for (size_t i = 0; i < memory.size(); i += width) {
            uint64_t bits = 0;
            memcpy(&bits, &memory[i], width);
            float single;
            double wide;
            memcpy(&single, &bits, 4);
            memcpy(&wide, &bits, 8);
            if ((dtype == DType::float32 && std::isnan(single)) || (dtype == DType::float64 && std::isnan(wide))) bits = ~0u;
            for (size_t b = 0; b < width; ++b) hash = (hash ^ (bits >> 8 * b & 0xff)) * 1099511628211u;
        }
        return hash;
    }
};

constexpr double special[] = {0.0, -0.0, HUGE_VAL, -HUGE_VAL, NAN, 1e-45, -1e-40, 3e38, -3e38, 88.8, -104.2, 65504.0, 6e-8};

void print(const char* dtype_name, DType dtype, bool probabilities, const char* option) {
    const auto is = [&](const char* name) { return strcmp(option, name) == 0; };
    const DType of_target = is("target of bool") ? DType::boolean : is("target of float64") ? DType::float64 : dtype;
    Array x(dtype), y(of_target), w(dtype), p(dtype), mask(DType::boolean);
    for (int64_t i = 0; i < size; ++i) {
        x.set(i, probabilities ? uniform() * uniform() : (uniform() - 0.5) * (i % 3 == 0 ? 200 : 20));
        y.set(i, of_target == DType::boolean || uniform() < 0.5 ? double(uniform() < 0.5) : uniform());
        w.set(i, 4 * uniform() * uniform());
        p.set(i, 3 * uniform());
        mask.set(i, double(uniform() < 0.8));
    }
    Array loss(dtype), gradient(dtype), hessian(dtype), value(DType::float64, 1);
    for (const bool with_specials : {false, true}) {  // the sum is a number without them alone
        if (with_specials && !probabilities)
            for (size_t i = 0; i < sizeof special / sizeof *special; ++i) x.set(int64_t(i), special[i]);
        Job job;
        job.input = probabilities ? Input::probabilities : Input::logits;
        job.any_target = true;
        job.size = size;
        job.x = x.view();
        job.target = y.view();
        if (is("weight") || is("weighted mean")) job.weight[job.weights++] = w.view();
        if (is("weighted mean")) job.divided_by = Divisor::weights, job.nothing_is_zero = true;
        if (is("pos_weight") || is("gamma 2, pos_weight")) job.pos_weight = p.view();
        if (is("mask")) job.mask = mask.view(), job.divided_by = Divisor::kept;
        if (is("ignore_index")) job.ignores = true, job.ignore_index = 1, job.divided_by = Divisor::kept;
        if (is("label_smoothing")) job.label_smoothing = 0.1;
        if (is("gamma 0.5")) job.gamma = 0.5;
        if (is("gamma 2, pos_weight")) job.gamma = 2;
        if (is("gamma 3.7") || is("expected hessian")) job.gamma = 3.7;
        if (is("gamma 7")) job.gamma = 7;
        if (is("two gammas") || is("margin")) job.gamma = 1, job.gamma_negative = 3.5;
        if (is("margin")) job.margin = 0.05;
        if (is("p_t") || is("expected p_t")) job.gamma = 2, job.of_p_t = true, job.share = 0.25, job.other_share = 0.75;
        job.expects = is("expected hessian") || is("expected p_t");
        job.incoming = is("incoming") ? 0.7 : 1;
        job.gradient = gradient.view();
        job.loss = loss.view();
        if (!with_specials) {
            job.loss = View();
            job.value = value.view();
        } else if (!probabilities) {
            job.loss = View();
            job.hessian = hessian.view();
        }
        run(job, nullptr);
        uint64_t hash = gradient.digest(14695981039346656037u);
        for (const Array* output : {&loss, &hessian, &value}) hash = output->digest(hash);
        printf("%s %s, %s%s: %016llx\n", dtype_name, probabilities ? "probabilities" : "logits", option,
               with_specials ? ", each element" : "", static_cast<unsigned long long>(hash));
    }
}

}  // namespace

int main() {
    if (!instruction_set()) return 3;
    fprintf(stderr, "%s\n", instruction_set());
    for (const auto& [name, dtype] : dtype_names) {
        if (element_size(dtype) == 1 || dtype == DType::int16 || dtype == DType::int32 || dtype == DType::int64) continue;
        for (const bool probabilities : {false, true})
            for (const char* option :
                 {"plain", "weight", "weighted mean", "pos_weight", "mask", "ignore_index", "label_smoothing", "gamma 0.5",
                  "gamma 2, pos_weight", "gamma 3.7", "gamma 7", "expected hessian", "two gammas", "margin", "p_t", "expected p_t",
                  "incoming", "target of bool", "target of float64"})
                print(name, dtype, probabilities, option);
    }
}
