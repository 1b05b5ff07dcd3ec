#include "view.h"

namespace binxent {

int64_t element_size(DType dtype) {
    switch (dtype) {
        case DType::float64:
        case DType::int64: return 8;
        case DType::float32:
        case DType::int32: return 4;
        case DType::bfloat16:
        case DType::float16:
        case DType::int16: return 2;
        default: return 1;
    }
}

bool make_view(View& view, void* data, DType dtype, int full_dims, const int64_t* full_shape, int dims,
               const int64_t* shape, const int64_t* strides) {
    if (dims > full_dims) return false;
    // From the innermost dimension outwards, merging each into the one before it where one stride serves both.
    int64_t merged_shape[max_dims], merged_stride[max_dims];
    int count = 0;
    int64_t packed = element_size(dtype);
    for (int d = full_dims - 1; d >= 0; --d) {
        const int own = d - (full_dims - dims);
        const int64_t size = own < 0 ? 1 : shape[own];
        if (size != full_shape[d] && size != 1) return false;
        const int64_t stride = size == 1 ? 0 : strides ? strides[own] : packed;
        packed *= size;
        if (full_shape[d] == 1) continue;
        if (count && stride == merged_stride[count - 1] * merged_shape[count - 1])
            merged_shape[count - 1] *= full_shape[d];
        else {
            merged_shape[count] = full_shape[d];
            merged_stride[count++] = stride;
        }
    }
    if (count == 0) {
        merged_shape[0] = 1;
        merged_stride[count++] = element_size(dtype);
    }
    view.data = static_cast<char*>(data);
    view.dtype = dtype;
    view.dims = count;
    for (int d = 0; d < count; ++d) {
        view.shape[d] = merged_shape[count - 1 - d];
        view.stride[d] = merged_stride[count - 1 - d];
    }
    return true;
}

}  // namespace binxent
