#include "xla.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/run.h"
#include "core/wrong.h"

namespace binxent {
namespace {

using xla::CallFrame;

constexpr int64_t serial_size = parallel_size;  // elements: so many small items are one task of a thread

DType dtype_of(int element) {
    switch (element) {
        case xla::f64: return DType::float64;
        case xla::f32: return DType::float32;
        case xla::bf16: return DType::bfloat16;
        case xla::f16: return DType::float16;
        case xla::pred: return DType::boolean;
        case xla::u8: return DType::uint8;
        case xla::s8: return DType::int8;
        case xla::s16: return DType::int16;
        case xla::s32: return DType::int32;
        case xla::s64: return DType::int64;
        default: throw std::invalid_argument("an operand's type is not supported");
    }
}

// XLA's pool, lent for one call. A helper may run at once in this thread, or later, or never. So nobody waits for a helper
// that has not begun, and one that begins too late finds the work closed.
class Lent {
    std::atomic<int> owners_{1};
    std::mutex mutex_;
    std::condition_variable left_;
    bool open_ = true;  // the mutex guards this and helpers_
    int helpers_ = 0;
    const Body body_;
    void* const context_;
    const int64_t tasks_;

    void release() {
        if (owners_.fetch_sub(1) == 1) delete this;
    }

    static void help(void* data) {
        Lent& lent = *static_cast<Lent*>(data);
        std::unique_lock<std::mutex> lock(lent.mutex_);
        if (lent.open_) {
            ++lent.helpers_;
            lock.unlock();
            lent.body_(0, lent.tasks_, lent.context_);
            lock.lock();
            if (--lent.helpers_ == 0) lent.left_.notify_all();
        }
        lock.unlock();
        lent.release();
    }

  public:
    Lent(int64_t tasks, Body body, void* context) : body_(body), context_(context), tasks_(tasks) {}

    void run(const CallFrame& frame, int64_t helpers) {
        for (; helpers > 0; --helpers) {
            ++owners_;
            xla::ThreadPoolSchedule schedule{sizeof schedule, nullptr, frame.context, help, this};
            if (xla::Error* error = frame.api->thread_pool_schedule(&schedule)) {
                xla::ErrorDestroy destroy{sizeof destroy, nullptr, error};
                frame.api->error_destroy(&destroy);
                --owners_;
                break;
            }
        }
        body_(0, tasks_, context_);
        std::unique_lock<std::mutex> lock(mutex_);
        open_ = false;
        left_.wait(lock, [&] { return helpers_ == 0; });
        lock.unlock();
        release();
    }
};

thread_local const CallFrame* frame_of_this_thread = nullptr;

// A ParallelFor. It does not divide the range, because the body draws its own share (core/threads.cpp).
int lend_xla_threads(int64_t begin, int64_t end, int64_t, Body body, void* context) {
    const CallFrame& frame = *frame_of_this_thread;
    int64_t threads = 0;
    xla::ThreadPoolNumThreads query{sizeof query, nullptr, frame.context, &threads};
    if (xla::Error* error = frame.api->thread_pool_num_threads(&query)) {
        xla::ErrorDestroy destroy{sizeof destroy, nullptr, error};
        frame.api->error_destroy(&destroy);
        return 1;
    }
    Lent* const lent = new (std::nothrow) Lent(end, body, context);
    if (!lent) return 1;
    lent->run(frame, std::min(end - begin, threads) - 1);
    return 0;
}

int64_t product(const int64_t* sizes, int dims) {
    int64_t n = 1;
    for (int d = 0; d < dims; ++d) n *= sizes[d];
    return n;
}

// The operands of a sparse target; none of any other.
struct SparseParts {
    int64_t begin = 0, end = 0;

    bool holds(int64_t operand) const { return begin <= operand && operand < end; }
};

// The shape that operands of one rank broadcast to.
struct FullShape {
    int dims = 0;
    int64_t size[max_dims];

    FullShape(const xla::Buffers& operands, const SparseParts& sparse) {
        for (int64_t k = 0; k < operands.size; ++k) {
            if (sparse.holds(k)) continue;
            const xla::Buffer& operand = *operands.buffers[k];
            if (k == 0) dims = int(operand.rank);
            if (operand.rank != dims || dims > max_dims) throw std::invalid_argument("the operands' ranks do not match");
            for (int d = 0; d < dims; ++d)
                if (k == 0 || size[d] == 1) size[d] = operand.dims[d];
        }
    }
};

// An operand or result of a batch of items, each of which is one job of the kernel.
class Batched {
    View items_;  // each item an element of this

  public:
    View first;
    const GivenShape shape;

    Batched(const xla::Buffer& buffer, const FullShape& full, int outer) : shape{int(buffer.rank), buffer.dims} {
        const int rank = int(buffer.rank), own = std::min(rank, outer);
        const DType dtype = dtype_of(buffer.dtype);
        int64_t strides[max_dims];
        int64_t packed = element_size(dtype) * product(buffer.dims + own, rank - own);
        for (int d = own - 1; d >= 0; packed *= buffer.dims[d--]) strides[d] = packed;
        if (!make_view(items_, buffer.data, dtype, outer, full.size, own, buffer.dims, strides) ||
            !make_view(first, buffer.data, dtype, full.dims - outer, full.size + outer, rank - own, buffer.dims + own,
                       nullptr))
            throw std::invalid_argument("the operands' shapes do not match");
    }

    char* operator[](int64_t item) const { return address_of(items_, item); }
};

double scalar(const CallFrame& frame, int64_t index) {
    const xla::Attributes& attributes = frame.attributes;
    if (index >= attributes.size || attributes.types[index] != xla::attribute_scalar)
        throw std::invalid_argument("an attribute is missing");
    const xla::Scalar& value = *attributes.scalars[index];
    switch (value.dtype) {
        case xla::pred: return *static_cast<const bool*>(value.value);
        case xla::s64: return double(*static_cast<const int64_t*>(value.value));
        case xla::f64: return *static_cast<const double*>(value.value);
        default: throw std::invalid_argument("an attribute is of another type");
    }
}

// XLA sorts attributes by name, so this is their order.
enum Attribute {
    checks_targets, divided_by, divisor, gamma, gamma_negative, gradient, ignore_index, ignores, incoming, label_smoothing,
    loss, margin, mask, neg_weight, of_p_t, other_share, outer, parts, pos_weight, probabilities, saved, share, traced_gamma,
    traced_label_smoothing, traced_normalizer
};

int64_t size_of(const xla::Buffer& buffer) { return product(buffer.dims, int(buffer.rank)); }

double number(const xla::Buffer& buffer) {
    if (size_of(buffer) != 1) throw std::invalid_argument("an option is no single number");
    View view;
    view.data = static_cast<char*>(buffer.data);
    view.dtype = dtype_of(buffer.dtype);
    return read_number(view);
}

const char* part(const xla::Buffer& buffer, int64_t size) {
    if (size_of(buffer) != size) throw std::invalid_argument("the parts of a sparse target do not match");
    return static_cast<const char*>(buffer.data);
}

Integers integers(const xla::Buffer& buffer, int64_t size) {
    if (buffer.dtype != xla::s32 && buffer.dtype != xla::s64)
        throw std::invalid_argument("offsets and labels are int32 or int64");
    return {part(buffer, size), buffer.dtype == xla::s64};
}

SparseRows read_sparse(xla::Buffer* const* parts, int64_t n, const FullShape& full, int outer) {
    if (full.dims != 2 || outer != 0 || n < 3 || n > 4) throw std::invalid_argument("a sparse target is [rows, columns]");
    SparseRows rows;
    rows.rows = full.size[0];
    rows.columns = full.size[1];
    rows.offsets = integers(*parts[0], rows.rows + 1);
    const int64_t stored = size_of(*parts[1]);
    rows.labels = integers(*parts[1], stored);
    rows.first = int64_t(number(*parts[2]));
    if (n == 4) {
        rows.values = part(*parts[3], stored);
        rows.dtype = dtype_of(parts[3]->dtype);
    }
    return rows;
}

// Whether there is nothing to do: the gradient that was saved lies where the result does, and each incoming gradient is 1.
bool is_done(const CallFrame& frame) {
    if (scalar(frame, saved) == 0) return false;
    const xla::Buffer& buffer = *frame.arguments.buffers[0];
    View number;
    number.dtype = dtype_of(buffer.dtype);
    const Line incoming{static_cast<char*>(buffer.data), element_size(number.dtype)};
    for (int64_t i = 0; i < size_of(buffer); ++i) {
        number.data = incoming[i];
        if (read_number(number) != 1) return false;
    }
    return true;
}

// One call of the handler. It is a batch of jobs, which differ in their addresses and in the incoming gradient.
class Batch {
    struct Item {
        Job job;
        View incoming;  // one number; not used for the loss of each element, where it is one more weight
    };

    const bool has_incoming_, has_saved_;
    const int pos_weight_rank_, mask_rank_, neg_weight_rank_;  // before they had the logits' rank; −1: there is none
    const bool has_pos_weight_ = pos_weight_rank_ >= 0, has_mask_ = mask_rank_ >= 0, has_neg_weight_ = neg_weight_rank_ >= 0;
    const bool want_loss_;
    SparseParts sparse_;
    bool each_element_;
    std::vector<Batched, Allocator<Batched>> operands_, results_;
    Item pattern_;
    int64_t items_;
    int64_t shape_[max_dims];  // of an item
    int dims_;

    View& place(Item& item, int operand) const {
        Job& job = item.job;
        const int last = int(operands_.size()) - has_neg_weight_, after_weights = last - has_pos_weight_ - has_mask_;
        if (operand == last) return job.neg_weight;
        if (operand >= after_weights) return has_pos_weight_ && operand == after_weights ? job.pos_weight : job.mask;
        const int own = operand - has_incoming_;
        if (own < 0) return each_element_ ? job.weight[job.weights - 1] : item.incoming;
        if (own == 0) return job.x;
        return own == 1 && !job.sparse_target ? job.target : job.weight[own - 2 + bool(job.sparse_target)];
    }

    View& place_result(Item& item, int result) const {
        if (result == 0 && want_loss_) return each_element_ ? item.job.loss : item.job.value;
        return item.job.gradient;
    }

    // The shape that an operand had in the function that was compiled: without the axes that were put before its own.
    GivenShape given(int operand, int rank) const {
        const GivenShape& shape = operands_[operand].shape;
        const int own = std::min(rank, dims_);
        return {own, shape.size + shape.dims - own};
    }

    // An operand that is wrong ends the program, whose caller has asked for that.
    void refuse(const Job& job, unsigned flags) const {
        if (!job.checks_targets || !flags) return;
        GivenShapes shapes;
        shapes.logits = {dims_, shape_};
        int operand = int(operands_.size());
        if (has_neg_weight_) shapes.neg_weight = given(--operand, neg_weight_rank_);
        if (has_mask_) shapes.mask = given(--operand, mask_rank_);
        if (has_pos_weight_) shapes.pos_weight = given(--operand, pos_weight_rank_);
        throw std::invalid_argument(wrong_element(job, flags, shapes));
    }

    template <class Run>
    void run_items(Item& item, int64_t begin, int64_t end, Run run) const {
        for (int64_t i = begin; i < end; ++i) {
            for (int k = 0; k < int(operands_.size()); ++k) place(item, k).data = operands_[k][i];
            for (int k = 0; k < int(results_.size()); ++k) place_result(item, k).data = results_[k][i];
            if (item.incoming) item.job.incoming = read_number(item.incoming);
            run(item.job);
        }
    }

  public:
    explicit Batch(const CallFrame& frame)
        : has_incoming_(scalar(frame, incoming) != 0),
          has_saved_(scalar(frame, saved) != 0),
          pos_weight_rank_(int(scalar(frame, pos_weight))),
          mask_rank_(int(scalar(frame, mask))),
          neg_weight_rank_(int(scalar(frame, neg_weight))),
          want_loss_(scalar(frame, loss) != 0) {
        const xla::Buffers &arguments = frame.arguments, &results = frame.results;
        const int64_t target_parts = int64_t(scalar(frame, parts)), target = 1 + has_incoming_ + has_saved_;
        if (target_parts < 1 || target + target_parts > arguments.size)
            throw std::invalid_argument("no such number of operands");
        if (target_parts > 1) sparse_ = {target, target + target_parts};
        const FullShape full(arguments, sparse_);
        Job& job = pattern_.job;
        job.input = scalar(frame, probabilities) != 0 ? Input::probabilities : Input::logits;
        job.ignores = scalar(frame, ignores) != 0;
        job.checks_targets = scalar(frame, checks_targets) != 0;
        job.gamma_negative = scalar(frame, gamma_negative);
        job.margin = scalar(frame, margin);
        job.of_p_t = scalar(frame, of_p_t) != 0;
        job.share = scalar(frame, share);
        job.other_share = scalar(frame, other_share);
        job.ignore_index = scalar(frame, ignore_index);
        job.divided_by = Divisor(int(scalar(frame, divided_by)));
        job.divisor = scalar(frame, divisor);
        int64_t arrays = arguments.size;  // the options that are operands come after the arrays
        job.nothing_is_zero = scalar(frame, traced_normalizer) != 0;
        if (job.nothing_is_zero) job.divisor = number(*arguments.buffers[--arrays]);
        const bool gamma_is_last = scalar(frame, traced_gamma) != 0;
        job.gamma = gamma_is_last ? number(*arguments.buffers[--arrays]) : scalar(frame, gamma);
        const bool smoothing_is_last = scalar(frame, traced_label_smoothing) != 0;
        job.label_smoothing = smoothing_is_last ? number(*arguments.buffers[--arrays]) : scalar(frame, label_smoothing);
        // A NaN is not above 0, so the loops would not see it as gamma.
        if (job.gamma != job.gamma) job.label_smoothing = job.gamma;

        const int batch_axes = int(scalar(frame, outer));
        // Items of one element each are one job, unless each is divided, by its own weight or by a normalizer.
        each_element_ = batch_axes == full.dims && job.divided_by != Divisor::weights && !job.nothing_is_zero;
        if (each_element_) job.divided_by = Divisor::given;
        const int batch_dims = each_element_ ? 0 : batch_axes;
        items_ = product(full.size, batch_dims);
        dims_ = full.dims - batch_dims;
        std::copy_n(full.size + batch_dims, dims_, shape_);
        job.size = product(shape_, dims_);
        if (target_parts > 1) {
            job.sparse_target = read_sparse(arguments.buffers + target, target_parts, full, batch_dims);
            job.target.dtype = job.sparse_target.dtype;
        }
        const int others = 1 + int(target_parts) + has_saved_ + has_pos_weight_ + has_mask_ + has_neg_weight_ +
                           (has_incoming_ && !each_element_);
        job.weights = int(arrays) - others;
        if (job.weights < 0 || job.weights > max_weights || results.size != want_loss_ + (scalar(frame, gradient) != 0))
            throw std::invalid_argument("no such number of operands or results");
        operands_.reserve(arrays);
        results_.reserve(results.size);
        for (int64_t k = 0; k < arrays; ++k)
            if (!(has_saved_ && k == 1) && !sparse_.holds(k)) operands_.emplace_back(*arguments.buffers[k], full, batch_dims);
        for (int64_t k = 0; k < results.size; ++k) results_.emplace_back(*results.buffers[k], full, batch_dims);
        for (int k = 0; k < int(operands_.size()); ++k) place(pattern_, k) = operands_[k].first;
        for (int k = 0; k < int(results_.size()); ++k) place_result(pattern_, k) = results_[k].first;
    }

    void run() {
        const int64_t size = pattern_.job.size, share = size < serial_size ? serial_size / std::max<int64_t>(1, size) : 0;
        if (share == 0 || items_ <= share)
            return run_items(pattern_, 0, items_, [this](Job& job) { refuse(job, binxent::run(job, lend_xla_threads)); });
        struct Context {
            const Batch* batch;
            int64_t share;
            std::atomic<unsigned> flags{0};
        };
        const auto run_share = [](int64_t begin, int64_t end, void* self, char* workspace) noexcept {
            auto& own = *static_cast<Context*>(self);
            Item item = own.batch->pattern_;
            const int64_t first = begin * own.share, last = std::min(end * own.share, own.batch->items_);
            own.batch->run_items(item, first, last, [&](Job& job) { own.flags |= run_alone(job, workspace); });
        };
        Context context{this, share};
        const size_t bytes = workspace_size(pattern_.job);
        Workspace workspace(bytes);
        if (!workspace.data()) throw OutOfMemory(bytes);
        parallel_for((items_ + share - 1) / share, run_share, &context, {workspace.data(), bytes}, lend_xla_threads);
        // A task cannot throw: the item that is wrong is found by running them once more.
        if (pattern_.job.checks_targets && context.flags)
            run_items(pattern_, 0, items_, [this](Job& job) { refuse(job, binxent::run(job, nullptr)); });
    }
};

xla::Error* new_error(const CallFrame& frame, const std::exception& failure, int code) {
    xla::ErrorCreate create{sizeof create, nullptr, failure.what(), code};
    return frame.api->error_create(&create);
}

}  // namespace

xla::Error* xla_handler(CallFrame* frame) {
    const xla::Extension* extension = frame->extension;
    if (extension && extension->type == xla::extension_metadata) {
        // Minor versions are compatible. XLA refuses those above its own and, some day, those far below.
        xla::Version& version = reinterpret_cast<const xla::MetadataExtension*>(extension)->metadata->api_version;
        const int minor = frame->api ? std::min(xla::minor_version, frame->api->api_version.minor_version)
                                     : xla::oldest_minor_version;
        version = {sizeof version, nullptr, xla::major_version, minor};
        return nullptr;
    }
    try {
        frame_of_this_thread = frame;
        if (!is_done(*frame)) Batch(*frame).run();
        return nullptr;
    } catch (const std::bad_alloc& failure) {
        return new_error(*frame, failure, xla::error_resource_exhausted);
    } catch (const std::exception& failure) {
        return new_error(*frame, failure, xla::error_invalid_argument);
    }
}

}  // namespace binxent
