// Runs the kernel over the same elements, for callgrind: driver CASE ELEMENTS TIMES. Without arguments it names the cases.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "core/isa.h"
#include "core/run.h"

using namespace binxent;

namespace {

View view(void* data, DType dtype, int64_t n) {
    View v;
    const int64_t shape[] = {n};
    make_view(v, data, dtype, 1, shape, 1, shape, nullptr);
    return v;
}

struct Case {
    const char* name;
    DType dtype = DType::float32;
    bool probabilities = false, pos_weight = false, loss = true, gradient = true, hessian = false;
    double gamma = 0;
    enum Target { alike, boolean, sparse } target = alike;
};

constexpr Case cases[] = {
    {"float32"},
    {"float32 pos_weight", DType::float32, false, true},
    {"float32 loss", DType::float32, false, false, true, false},
    {"float32 gradient", DType::float32, false, false, false, true},
    {"float32 probabilities", DType::float32, true},
    {"bfloat16", DType::bfloat16},
    {"float16", DType::float16},
    {"float64", DType::float64},
    {"float32 gamma", DType::float32, false, false, true, true, false, 2},
    {"float32 probabilities gamma", DType::float32, true, false, true, true, false, 2},
    {"bfloat16 gamma", DType::bfloat16, false, false, true, true, false, 2},
    {"float32 hessian", DType::float32, false, false, false, true, true},
    {"float32 bool", DType::float32, false, false, true, true, false, 0, Case::boolean},
    {"float32 sparse", DType::float32, false, false, true, true, false, 0, Case::sparse},
};

// The few values that are written are exact in each type; what they are has no influence on the number of instructions.
void write(char* to, DType dtype, double value) {
    const float single = float(value);
    uint32_t bits;
    memcpy(&bits, &single, 4);
    if (dtype == DType::float64) memcpy(to, &value, 8);
    if (dtype == DType::float32) memcpy(to, &bits, 4);
    const uint16_t brain = uint16_t(bits >> 16);
    if (dtype == DType::bfloat16) memcpy(to, &brain, 2);
    // 1, 1/2, 1/4, 1/8 and 0, as a half.
    const uint16_t half = value == 0 ? 0 : uint16_t(((bits >> 23) - 127 + 15) << 10);
    if (dtype == DType::float16) memcpy(to, &half, 2);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) {
        for (const Case& c : cases) printf("%s\n", c.name);
        return 0;
    }
    if (!instruction_set()) {
        fprintf(stderr, "this machine has no %s\n", getenv("BINXENT_ISA"));
        return 3;
    }
    const int64_t n = atoll(arguments[2]);
    for (const Case& c : cases) {
        if (std::string(c.name) != arguments[1]) continue;
        const int64_t size = element_size(c.dtype);
        const auto array = [&] { return std::unique_ptr<char[]>(new char[n * size]()); };
        const auto x = array(), y = array(), p = array(), gradient = array(), hessian = array();
        for (int64_t i = 0; i < n; ++i) {
            write(&x[i * size], c.dtype, 1.0 / double(1 << i % 4));
            write(&y[i * size], c.dtype, double(i % 3 == 0));
            write(&p[i * size], c.dtype, 0.5);
        }
        Job job;
        double value = 0;
        job.input = c.probabilities ? Input::probabilities : Input::logits;
        job.size = n;
        job.gamma = c.gamma;
        job.x = view(x.get(), c.dtype, n);
        job.target = view(y.get(), c.dtype, n);
        if (c.target == Case::boolean) {
            job.target = view(y.get(), DType::boolean, n);
        } else if (c.target == Case::sparse) {  // one row, without labels
            static const int64_t offsets[2] = {0, 0};
            job.sparse_target.offsets = {reinterpret_cast<const char*>(offsets)};
            job.sparse_target.rows = 1;
            job.sparse_target.columns = n;
            job.target.dtype = job.sparse_target.dtype;
        }
        if (c.pos_weight) job.pos_weight = view(p.get(), c.dtype, n);
        if (c.gradient) job.gradient = view(gradient.get(), c.dtype, n);
        if (c.hessian) job.hessian = view(hessian.get(), c.dtype, n);
        if (c.loss) job.value = view(&value, DType::float64, 1);
        for (int64_t times = atoll(arguments[3]); times > 0; --times) run(job, nullptr);
        return 0;
    }
    fprintf(stderr, "no case %s\n", arguments[1]);
    return 2;
}
