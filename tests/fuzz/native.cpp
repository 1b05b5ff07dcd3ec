// Calls of the native core that are made of bytes: any shape, strides, dtype, option and value, in memory of exactly the
// size that they need, so that a sanitizer sees one byte too many.
//
// Each job runs twice, on several threads where its operands lie and on one thread on packed copies: no bit may differ, and
// no operand may have changed. Built with BINXENT_LIBFUZZER, libFuzzer chooses the bytes. Without it a generator does:
// native SEED COUNT CALLERS runs COUNT inputs on each of CALLERS threads at once.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/isa.h"
#include "core/run.h"
#include "core/sparse.h"

using namespace binxent;

namespace {

// What is left of the input. Behind its end are zeros.
class Bytes {
    const uint8_t* data_;
    size_t size_;

  public:
    Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    uint64_t number(int bytes) {
        uint64_t value = 0;
        for (; bytes > 0; --bytes) {
            value = value << 8 | (size_ ? *data_ : 0);
            if (size_) ++data_, --size_;
        }
        return value;
    }
    int64_t below(int64_t n) { return int64_t(number(2) % uint64_t(n)); }
    bool one_in(int64_t n) { return below(n) == 0; }
    double real() {
        const uint64_t bits = number(8);
        double value;
        memcpy(&value, &bits, 8);
        return value;
    }
};

using Memory = std::vector<char>;
using Shape = std::vector<int64_t>;

int64_t product(const Shape& shape) {
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    return size;
}

// An array in memory that ends where its last element does.
struct Array {
    DType dtype = DType::float32;
    Shape shape, strides;  // the strides in bytes
    int64_t first = 0;
    std::shared_ptr<Memory> memory;

    View in(const Shape& full) const {
        View view;
        if (!make_view(view, memory->data() + first, dtype, int(full.size()), full.data(), int(shape.size()), shape.data(),
                       strides.data()))
            throw std::logic_error("a shape that broadcasts was refused");
        return view;
    }

    // The bytes of its elements, in row-major order.
    Memory packed() const {
        const int64_t item = element_size(dtype), size = product(shape);
        Memory bytes(size_t(size * item));
        for (int64_t i = 0; i < size; ++i) {
            int64_t rest = i, at = first;
            for (size_t d = shape.size(); d-- > 0; rest /= shape[d]) at += rest % shape[d] * strides[d];
            memcpy(&bytes[size_t(i * item)], memory->data() + at, size_t(item));
        }
        return bytes;
    }

    Array copy() const {
        Array same = *this;
        same.first = 0;
        same.memory = std::make_shared<Memory>(packed());
        int64_t step = element_size(dtype);
        for (size_t d = shape.size(); d-- > 0; step *= shape[d]) same.strides[d] = step;
        return same;
    }
};

double small(DType dtype, double value, char* to) {
    const float single = float(value);
    uint32_t bits;
    memcpy(&bits, &single, 4);
    const uint16_t brain = uint16_t(bits >> 16);
    switch (dtype) {
        case DType::float64: memcpy(to, &value, 8); break;
        case DType::float32: memcpy(to, &bits, 4); break;
        case DType::bfloat16: memcpy(to, &brain, 2); break;
        default: *to = char(value != 0);
    }
    return value;
}

// `apart`: no two elements share memory. `unit`: numbers in [0, 1], where the dtype is one that is written here.
Array array(Bytes& bytes, DType dtype, const Shape& shape, bool apart, bool unit) {
    const int64_t item = element_size(dtype);
    Array made{dtype, shape, Shape(shape.size()), 0, nullptr};
    int64_t reach = item, last = 0;
    for (size_t d = shape.size(); d-- > 0;) {
        int64_t step = reach * (bytes.one_in(8) ? 2 : 1);
        if (!apart && bytes.one_in(8)) step = bytes.below(2 * item + 1);  // 0, overlapping, or not aligned
        reach = std::max<int64_t>(reach, step * std::max<int64_t>(shape[d], 1));
        const int64_t extent = step * std::max<int64_t>(shape[d] - 1, 0);
        const bool backwards = bytes.one_in(4);
        made.strides[d] = backwards ? -step : step;
        if (backwards) made.first += extent;
        last += extent;
    }
    const int64_t size = product(shape) ? last + item : 0;
    made.memory = std::make_shared<Memory>(size_t(size));
    std::minstd_rand random(unsigned(bytes.number(4)) | 1);
    for (int64_t i = 0; i + item <= size; i += item) {
        char* const to = made.memory->data() + i;
        const double value = double(random() % 1025) / 1024;
        if (unit || random() % 4)
            small(dtype, unit ? value : value * 20 - 10, to);
        else
            for (int64_t b = 0; b < item; ++b) to[b] = char(random() >> 8);
    }
    if (!size) made.first = 0;
    return made;
}

Shape any_shape(Bytes& bytes) {
    if (bytes.one_in(48)) return {65536 + bytes.below(5000)};
    if (bytes.one_in(48)) return {300 + bytes.below(30), 256 + bytes.below(30)};
    Shape shape(size_t(bytes.below(7)));
    const int64_t longest[] = {1, 5000, 40, 12, 7, 5, 4};
    for (int64_t& n : shape) n = bytes.one_in(24) ? 0 : 1 + bytes.below(bytes.one_in(4) ? 1 : longest[shape.size()]);
    return shape;
}

Shape part_of(Bytes& bytes, const Shape& full) {
    Shape shape(full.end() - bytes.below(int64_t(full.size()) + 1), full.end());
    for (int64_t& n : shape)
        if (bytes.one_in(3)) n = 1;
    return shape;
}

void require(bool holds, const char* what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

bool is_nan(const char* at, DType dtype) {
    uint64_t bits = 0;
    memcpy(&bits, at, size_t(element_size(dtype)));
    switch (dtype) {
        case DType::float64: return (bits & ~(1ull << 63)) > 0x7FF0000000000000ull;
        case DType::float32: return (bits & 0x7FFFFFFF) > 0x7F800000;
        case DType::bfloat16: return (bits & 0x7FFF) > 0x7F80;
        default: return (bits & 0x7FFF) > 0x7C00;
    }
}

// Which NaN it is has no meaning.
void require_same(const Memory& one, const Memory& other, DType dtype, const char* what) {
    const size_t item = size_t(element_size(dtype));
    require(one.size() == other.size(), what);
    for (size_t i = 0; i < one.size(); i += item)
        require(!memcmp(&one[i], &other[i], item) || (is_nan(&one[i], dtype) && is_nan(&other[i], dtype)), what);
}

constexpr DType floating[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

DType any_dtype(Bytes& bytes) { return dtype_names[bytes.below(int64_t(std::size(dtype_names)))].dtype; }

// The operands and outputs of a job, by the place that they have in it.
struct Call {
    Job job;
    Shape shape;
    Array x, target, weight[max_weights], pos_weight, mask, loss, gradient, hessian, value;
    bool in_place = false;

    // Points the job at the arrays.
    void bind() {
        const auto view = [&](const Array& array) { return array.memory ? array.in(shape) : View(); };
        job.x = view(x);
        job.target = view(target);
        for (int k = 0; k < job.weights; ++k) job.weight[k] = view(weight[k]);
        job.pos_weight = view(pos_weight);
        job.mask = view(mask);
        job.loss = view(loss);
        job.gradient = in_place ? job.x : view(gradient);
        job.hessian = view(hessian);
        job.value = value.memory ? value.in({}) : View();
    }

    void pack() {
        for (Array* array : {&x, &target, &weight[0], &weight[1], &weight[2], &weight[3], &pos_weight, &mask, &loss,
                             &gradient, &hessian, &value})
            if (array->memory) *array = array->copy();
    }
};

void call_kernel(Bytes& bytes) {
    Call call;
    call.shape = any_shape(bytes);
    Job& job = call.job;
    const auto operand = [&](const Shape& shape) { return array(bytes, any_dtype(bytes), shape, false, false); };
    job.size = product(call.shape);
    job.input = bytes.one_in(2) ? Input::probabilities : Input::logits;
    const bool unit = job.input == Input::probabilities && !bytes.one_in(4);
    const DType dtype = floating[bytes.below(4)], target = bytes.one_in(2) ? dtype : any_dtype(bytes);
    call.in_place = bytes.one_in(4);
    call.x = array(bytes, dtype, call.shape, call.in_place, unit);
    call.target = array(bytes, target, call.shape, false, unit);
    job.weights = bytes.one_in(2) ? 0 : int(bytes.below(max_weights + 1));
    for (int k = 0; k < job.weights; ++k) call.weight[k] = operand(part_of(bytes, call.shape));
    if (bytes.one_in(3)) call.pos_weight = operand(part_of(bytes, call.shape));
    if (bytes.one_in(3)) call.mask = operand(part_of(bytes, call.shape));
    const auto output = [&] { return array(bytes, floating[bytes.below(4)], call.shape, true, true); };
    if (bytes.one_in(2)) call.loss = output();
    if (!call.in_place && bytes.one_in(2)) call.gradient = output();
    if ((call.in_place || call.gradient.memory) && job.input == Input::logits && bytes.one_in(3)) call.hessian = output();
    if (bytes.one_in(2)) call.value = array(bytes, floating[bytes.below(4)], {}, true, true);
    if ((job.ignores = bytes.one_in(3))) job.ignore_index = bytes.one_in(2) ? 0 : NAN;
    if (bytes.one_in(3)) job.label_smoothing = double(bytes.below(257)) / 256;
    if (bytes.one_in(3)) job.gamma = double(bytes.below(2000)) / 256;
    if (bytes.one_in(4)) job.gamma_negative = double(bytes.below(2000)) / 256;
    if (bytes.one_in(4)) job.margin = double(bytes.below(256)) / 256;
    job.of_p_t = job.gamma_negative < 0 && job.margin == 0 && bytes.one_in(4);
    if (bytes.one_in(4)) job.share = double(bytes.below(257)) / 256, job.other_share = 1 - job.share;
    job.checks_targets = bytes.one_in(4);
    job.expects = bytes.one_in(2);
    if (bytes.one_in(3)) job.divisor = bytes.real();
    if (bytes.one_in(3)) job.divided_by = bytes.one_in(2) ? Divisor::kept : Divisor::weights;
    if (bytes.one_in(3)) job.incoming = bytes.real();
    job.any_target = bytes.one_in(4);

    Call packed = call;
    packed.pack();
    packed.bind();
    call.bind();
    const Memory before = call.x.packed();
    const unsigned flags = run(job, nullptr);
    // An executor that does the same on the calling thread.
    const unsigned again = run(packed.job, [](int64_t begin, int64_t end, int64_t, Body body, void* context) {
        body(begin, end, context);
        return 0;
    });
    require(flags == again, "the flags depend on the layout or on the threads");
    if (!call.in_place) require(before == call.x.packed(), "an operand has changed");
    for (const auto of : {&Call::loss, &Call::gradient, &Call::hessian, &Call::value})
        if ((call.*of).memory)
            require_same((call.*of).packed(), (packed.*of).packed(), (call.*of).dtype, "bits depend on layout or threads");
    if (call.in_place) require_same(call.x.packed(), packed.x.packed(), dtype, "a gradient in place depends on the layout");
}

void call_sparse(Bytes& bytes) {
    const int64_t rows = bytes.below(9), places = bytes.below(40);
    const bool wide = bytes.one_in(2), by_width = bytes.one_in(2);
    StoredLabels stored;
    stored.rows = rows;
    stored.width = by_width ? bytes.below(6) : 0;
    stored.size = by_width ? rows * stored.width : places;
    stored.num_labels = bytes.below(30);
    stored.is_set = bytes.one_in(2);
    if ((stored.pads = bytes.one_in(2))) stored.padding = bytes.one_in(2) ? -1 : bytes.below(30);
    Memory labels(size_t(stored.size * (wide ? 8 : 4)));
    for (int64_t i = 0; i < stored.size; ++i) {
        const int64_t label = bytes.one_in(20) ? int64_t(bytes.number(8)) : bytes.below(12) - bytes.one_in(8);
        const int32_t narrow = int32_t(label);
        memcpy(&labels[size_t(i * (wide ? 8 : 4))], wide ? static_cast<const void*>(&label) : &narrow, wide ? 8 : 4);
    }
    stored.labels = {labels.data(), wide};
    std::vector<int64_t> offsets(size_t(rows + 1));
    if (!by_width) {
        for (size_t r = 1; r < offsets.size(); ++r)
            offsets[r] = bytes.one_in(30) ? int64_t(bytes.number(8)) : std::min(places, offsets[r - 1] + bytes.below(6));
        if (rows && !bytes.one_in(8)) offsets.back() = places;
        stored.offsets = offsets.data();
    }
    const Findings found = check(stored);
    if (found.fault != Fault::none) return;
    std::vector<int64_t> bounds(size_t(rows + 1)), stood(size_t(stored.size));
    Memory sorted(labels.size());
    const Findings again = sort(stored, {bounds.data(), sorted.data(), stood.data()});
    if (again.fault == Fault::twice && !stored.is_set) return;  // in an unsorted row only sort() sees that
    require(again.fault == Fault::none, "sort() finds what check() did not");
    SparseRows target;
    target.offsets = {reinterpret_cast<const char*>(bounds.data()), true};
    target.labels = {sorted.data(), wide};
    target.rows = rows;
    target.columns = stored.num_labels;
    const Shape shape{rows, stored.num_labels};
    Array x = array(bytes, floating[bytes.below(4)], shape, true, false), gradient = array(bytes, x.dtype, shape, true, true);
    Job job;
    job.size = product(shape);
    job.x = x.in(shape);
    job.gradient = gradient.in(shape);
    job.sparse_target = target;
    job.target.dtype = target.dtype;
    run(job, nullptr);
    const Memory of_rows = gradient.packed();
    // The same labels as an array.
    Array dense{DType::boolean, shape, {stored.num_labels, 1}, 0, std::make_shared<Memory>(size_t(job.size))};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = bounds[size_t(r)]; i < bounds[size_t(r) + 1]; ++i)
            (*dense.memory)[size_t(r * stored.num_labels + target.labels[i])] = 1;
    job.sparse_target = SparseRows();
    job.target = dense.in(shape);
    run(job, nullptr);
    require_same(of_rows, gradient.packed(), x.dtype, "a sparse target gives other bits");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    if (bytes.one_in(4))
        call_sparse(bytes);
    else
        call_kernel(bytes);
    return 0;
}

#ifndef BINXENT_LIBFUZZER
int main(int count, char** arguments) {
    if (count != 4) {
        fprintf(stderr, "native SEED COUNT CALLERS\n");
        return 2;
    }
    set_num_threads(3);
    const auto caller = [&](int number) {
        for (long i = 0; i < atol(arguments[2]); ++i) {
            std::seed_seq seed{atol(arguments[1]), long(number), i};
            std::mt19937_64 random(seed);
            uint64_t words[160];
            for (uint64_t& word : words) word = random();
            LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(words), sizeof words);
        }
    };
    std::vector<std::thread> callers;
    for (int k = 0; k < atoi(arguments[3]); ++k) callers.emplace_back(caller, k);
    for (std::thread& thread : callers) thread.join();
    printf("%ld calls on %s threads, kernel for %s\n", atol(arguments[2]) * atol(arguments[3]), arguments[3], instruction_set());
    return 0;
}
#endif
