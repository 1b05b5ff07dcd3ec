#include "torch.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "core/memory.h"
#include "core/run.h"

namespace binxent {
namespace {

// torch's stable interface, of torch/csrc/stable/c/shim.h. Its functions are looked up in the torch that runs, so that
// nothing of torch is linked or included. They return 0, unless they have failed.
using Handle = struct TensorOfTorch*;  // whoever receives one owns it
using Value = uint64_t;                // an argument or a result: a number, or a handle

struct Torch {
    int32_t (*library_init_impl)(const char* name, const char* key, const char* file, uint32_t line, void** out);
    int32_t (*library_impl)(void* library, const char* name, void (*function)(Value*, uint64_t, uint64_t));
    int32_t (*call_dispatcher)(const char* name, const char* overload, Value* stack);
    int32_t (*new_tensor_handle)(Handle, Handle* out);
    int32_t (*delete_tensor_object)(Handle);
    int32_t (*get_const_data_ptr)(Handle, const void** out);
    int32_t (*get_mutable_data_ptr)(Handle, void** out);
    int32_t (*get_dim)(Handle, int64_t* out);
    int32_t (*get_sizes)(Handle, int64_t** out);
    int32_t (*get_strides)(Handle, int64_t** out);
    int32_t (*get_dtype)(Handle, int32_t* out);
    int32_t (*is_contiguous)(Handle, bool* out);
    int32_t (*empty_strided)(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                             int32_t device_type, int32_t device_index, Handle* out);
    int32_t (*from_blob)(void* data, int64_t dims, const int64_t* sizes, const int64_t* strides, int64_t offset,
                         int32_t dtype, int32_t device_type, int32_t device_index, Handle* out, int32_t layout,
                         const uint8_t* metadata, int64_t metadata_size, void (*free)(void* data, void* context),
                         void* context);
    int32_t (*cpu)();
    int32_t (*strided)();
    int32_t code[sizeof dtype_names / sizeof *dtype_names];  // torch's number of each DType

    bool find(void* library) {
        const auto look = [&](auto& function, const std::string& name) {
            return function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name.c_str()));
        };
        for (const auto& [name, dtype] : dtype_names) {
            int32_t (*number)();
            if (!look(number, std::string("aoti_torch_dtype_") + name)) return false;
            code[int(dtype)] = number();
        }
        return look(library_init_impl, "aoti_torch_library_init_impl") && look(library_impl, "aoti_torch_library_impl") &&
               look(call_dispatcher, "aoti_torch_call_dispatcher") &&
               look(new_tensor_handle, "aoti_torch_new_tensor_handle") &&
               look(delete_tensor_object, "aoti_torch_delete_tensor_object") &&
               look(get_const_data_ptr, "torch_get_const_data_ptr") &&
               look(get_mutable_data_ptr, "torch_get_mutable_data_ptr") && look(get_dim, "aoti_torch_get_dim") &&
               look(get_sizes, "aoti_torch_get_sizes") && look(get_strides, "aoti_torch_get_strides") &&
               look(get_dtype, "aoti_torch_get_dtype") && look(is_contiguous, "aoti_torch_is_contiguous") &&
               look(empty_strided, "aoti_torch_empty_strided") && look(from_blob, "torch_from_blob") &&
               look(cpu, "aoti_torch_device_type_cpu") && look(strided, "aoti_torch_layout_strided");
    }
} torch;

ParallelFor torch_threads;

void check(int32_t failure) {
    if (failure) throw std::runtime_error("binxent: a function of torch's stable interface has failed");
}

class Tensor {
    Handle handle_;

  public:
    explicit Tensor(Handle handle) : handle_(handle) {}
    explicit Tensor(Value value) : handle_(reinterpret_cast<Handle>(value)) {}
    Tensor(Tensor&& other) noexcept : handle_(other.release()) {}
    ~Tensor() {
        if (handle_) torch.delete_tensor_object(handle_);
    }

    Handle release() { return std::exchange(handle_, nullptr); }
    Value result() { return reinterpret_cast<Value>(release()); }
    Value another_handle() const {
        Handle another;
        check(torch.new_tensor_handle(handle_, &another));
        return reinterpret_cast<Value>(another);
    }

    int dims() const {
        int64_t dims;
        check(torch.get_dim(handle_, &dims));
        if (dims > max_dims) throw std::invalid_argument("more than 64 dimensions");
        return int(dims);
    }

    const int64_t* sizes() const {
        int64_t* sizes;
        check(torch.get_sizes(handle_, &sizes));
        return sizes;
    }

    int64_t size() const {
        int64_t n = 1;
        for (int d = 0, dims = this->dims(); d < dims; ++d) n *= sizes()[d];
        return n;
    }

    int32_t dtype_code() const {
        int32_t code;
        check(torch.get_dtype(handle_, &code));
        return code;
    }

    DType dtype() const {
        const int32_t code = dtype_code();
        for (const auto& [name, dtype] : dtype_names)
            if (torch.code[int(dtype)] == code) return dtype;
        throw std::invalid_argument("an operand is of a dtype that the kernel does not read");
    }

    bool is_contiguous() const {
        bool contiguous;
        check(torch.is_contiguous(handle_, &contiguous));
        return contiguous;
    }

    // Reading copies nothing, where torch would copy a tensor before it is written.
    void* data() const {
        const void* data;
        check(torch.get_const_data_ptr(handle_, &data));
        return const_cast<void*>(data);
    }

    void* data_to_write() {
        void* data;
        check(torch.get_mutable_data_ptr(handle_, &data));
        return data;
    }

    // The view of these data, of this tensor's dtype, shape and strides, as the full tensor's shape sees it.
    View in(const Tensor& full, void* data) const {
        const DType dtype = this->dtype();
        const int dims = this->dims();
        int64_t *elements, strides[max_dims];
        check(torch.get_strides(handle_, &elements));
        for (int d = 0; d < dims; ++d) strides[d] = elements[d] * element_size(dtype);
        View view;
        if (!make_view(view, data, dtype, full.dims(), full.sizes(), dims, sizes(), strides))
            throw std::invalid_argument("an operand does not broadcast to the input's shape");
        return view;
    }
};

// Makes a tensor of memory, of so many bytes, that free(data, context) will free.
Tensor adopt(void* data, size_t bytes, int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
             void (*free)(void* data, void* context), void* context) {
    Handle handle;
    // If torch had no memory left for this, nobody knows whether it has freed the data, which are better lost.
    if (torch.from_blob(data, dims, sizes, strides, 0, dtype, torch.cpu(), -1, &handle, torch.strided(), nullptr, 0,
                        free, context))
        throw OutOfMemory(bytes);
    return Tensor(handle);
}

Tensor new_tensor(int64_t dims, const int64_t* sizes, int32_t dtype, size_t bytes) {
    int64_t strides[max_dims], step = 1;
    for (int64_t d = dims - 1; d >= 0; --d) {
        strides[d] = step;
        step *= sizes[d] > 0 ? sizes[d] : 1;
    }
    if (bytes >= large_memory) {
        std::unique_ptr<Memory> memory(new Memory(bytes));
        void* const data = memory->data();
        const auto free = [](void*, void* context) { delete static_cast<Memory*>(context); };
        return adopt(data, bytes, dims, sizes, strides, dtype, free, memory.release());
    }
    Handle handle;
    if (torch.empty_strided(dims, sizes, strides, dtype, torch.cpu(), -1, &handle)) throw OutOfMemory(bytes);
    return Tensor(handle);
}

Tensor new_like(const Tensor& tensor) {
    const size_t bytes = tensor.size() * element_size(tensor.dtype());
    if (tensor.is_contiguous()) return new_tensor(tensor.dims(), tensor.sizes(), tensor.dtype_code(), bytes);
    Value stack[6] = {tensor.another_handle()};  // the options are None
    if (torch.call_dispatcher("aten::empty_like", "", stack)) throw OutOfMemory(bytes);
    return Tensor(stack[0]);
}

// A token owns the gradient that was made together with a loss, for the operator of the backward. To torch it is a tensor of
// one element, which saves it for the backward and frees it. A copy of that tensor, such as a hook on saved tensors may
// make, owns no gradient. It is known by its address, which is not in this array.
struct Token {
    double element;
    std::atomic<bool> used;
    std::atomic<Handle> gradient;  // null once it was handed over
    double made_for;               // the incoming gradient
};
constexpr unsigned most_tokens = 4096;
Token tokens[most_tokens];
std::atomic<unsigned> next_token{0};

void free_token(void* data, void*) {
    Token& token = *static_cast<Token*>(data);
    if (const Handle gradient = token.gradient.exchange(nullptr)) torch.delete_tensor_object(gradient);
    token.used = false;
}

Token* find_unused_token() {
    for (unsigned tries = 0; tries < most_tokens; ++tries) {
        Token& token = tokens[next_token++ % most_tokens];
        if (!token.used.exchange(true)) return &token;
    }
    return nullptr;
}

// Where so many losses wait for their backward that no token is left, the gradient is dropped, and will be made again.
Tensor new_token(Tensor gradient, double made_for) {
    const int64_t one = 1;
    const int32_t dtype = gradient.dtype_code();
    Token* const token = find_unused_token();
    if (!token) return new_tensor(1, &one, dtype, 0);
    token->made_for = made_for;
    token->gradient = gradient.release();
    return adopt(token, sizeof(Token), 1, &one, &one, dtype, free_token, nullptr);
}

Token* token_of(const Tensor& tensor) {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(tensor.data()) - reinterpret_cast<uintptr_t>(tokens);
    return offset < sizeof tokens ? tokens + offset / sizeof *tokens : nullptr;
}

// The incoming gradient that the last backward brought: see src/binxent/torch/cpu.py, where eager losses remember theirs.
std::atomic<double> expected_incoming{1};

// What each operator is called with: input, target, whether they are probabilities, whether the sum becomes a mean, and the
// DType of the loss. It is a number, because torch takes a microsecond and a half to read a dtype of its own.
struct Call {
    const Tensor input, target;
    const bool probabilities, mean;
    const DType dtype;

    explicit Call(const Value* stack)
        : input(stack[0]), target(stack[1]), probabilities(uint8_t(stack[2])), mean(uint8_t(stack[3])),
          dtype(DType(stack[4])) {}

    Tensor new_loss() const {
        const int64_t none = 0;
        return new_tensor(0, &none, torch.code[int(dtype)], element_size(dtype));
    }

    // Writes the loss, the gradient, or both.
    void compute(Tensor* loss, Tensor* gradient, double incoming) const {
        Job job;
        job.input = probabilities ? Input::probabilities : Input::logits;
        job.size = input.size();
        job.divisor = mean ? double(job.size) : 1;
        job.incoming = incoming;
        job.x = input.in(input, input.data());
        job.target = target.in(input, target.data());
        if (loss) job.value = loss->in(*loss, loss->data_to_write());
        if (gradient) job.gradient = gradient->in(input, gradient->data_to_write());
        const unsigned outside = run(job, job.size < block_size ? nullptr : torch_threads);
        if (loss && outside) refuse(outside & input_out_of_range);
    }

    // Throws what an eager loss raises. The words are definition.refusal_of_probability's.
    [[noreturn]] void refuse(bool is_input) const {
        Value stack[2] = {(is_input ? input : target).another_handle(), is_input};
        check(torch.call_dispatcher("binxent::refusal_of_probability", "", stack));
        const Tensor words(stack[0]);
        throw std::runtime_error(std::string(static_cast<const char*>(words.data()), words.size()));
    }
};

void loss_alone(Value* stack, uint64_t, uint64_t) {
    const Call call(stack);
    Tensor loss = call.new_loss();
    call.compute(&loss, nullptr, 1);
    stack[0] = loss.result();
}

void loss_and_gradient(Value* stack, uint64_t, uint64_t) {
    const Call call(stack);
    Tensor loss = call.new_loss(), gradient = new_like(call.input);
    const double incoming = expected_incoming;
    call.compute(&loss, &gradient, incoming);
    Tensor token = new_token(std::move(gradient), incoming);
    stack[0] = loss.result();
    stack[1] = token.result();
}

void input_gradient(Value* stack, uint64_t, uint64_t) {
    const Tensor incoming(stack[0]), owner(stack[1]);
    const Call call(stack + 2);
    const double scale = read_number(incoming.in(incoming, incoming.data()));
    Token* const token = token_of(owner);
    const Handle made = token ? token->gradient.exchange(nullptr) : nullptr;
    Tensor gradient = made ? Tensor(made) : new_like(call.input);
    if (!made || scale != token->made_for) {
        call.compute(nullptr, &gradient, scale);
        expected_incoming = scale;
    }
    stack[0] = gradient.result();
}

}  // namespace

bool register_torch_operators(void* library, ParallelFor executor) {
    if (!torch.find(library)) return false;
    torch_threads = executor;
    void* implementations;  // never deleted, because that would take the operators back
    check(torch.library_init_impl("binxent", "CPU", __FILE__, __LINE__, &implementations));
    check(torch.library_impl(implementations, "native_loss_alone", loss_alone));
    check(torch.library_impl(implementations, "native_loss_and_gradient", loss_and_gradient));
    check(torch.library_impl(implementations, "native_input_gradient", input_gradient));
    return true;
}

}  // namespace binxent
