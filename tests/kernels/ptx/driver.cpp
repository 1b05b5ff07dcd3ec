// Answers for a CUDA driver where there is none: it hands the code that is loaded, and each launch, to ``driver.py``.
//
// Triton's own launcher calls it, so what a program is launched with is packed as for a card.

#include <cuda.h>

#include <cstring>

namespace {

using Load = unsigned (*)(const char* code);
using Launch = int (*)(unsigned kernel, unsigned blocks, unsigned threads, unsigned shared, void** parameters);

Load load;
Launch launch;

constexpr int shared_memory = 227 * 1024;
constexpr int threads_of_a_block = 1024;

}  // namespace

extern "C" {

// If ``for_launch`` is null, a launch does nothing.
void take(Load for_load, Launch for_launch) {
  load = for_load;
  launch = for_launch;
}

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int) {
  *device = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute, CUdevice) {
  *value = shared_memory;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) { return cuDeviceGet(device, 0); }

CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = reinterpret_cast<CUcontext>(1);
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return cuCtxGetCurrent(context); }

CUresult cuModuleLoadData(CUmodule* module, const void* code) {
  const std::size_t kernel = load(static_cast<const char*>(code));
  *module = reinterpret_cast<CUmodule>(kernel);
  return kernel == 0 ? CUDA_ERROR_INVALID_PTX : CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char*) {
  *function = reinterpret_cast<CUfunction>(module);
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? threads_of_a_block : 0;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }

CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute, CUdeviceptr pointer) {
  std::memcpy(value, &pointer, sizeof(pointer));
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "the code could not be run";
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(std::size_t* value, CUlimit) {
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit, std::size_t) { return CUDA_SUCCESS; }

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void**) {
  const auto kernel = static_cast<unsigned>(reinterpret_cast<std::size_t>(function));
  if (launch == nullptr) return CUDA_SUCCESS;
  const int failed = launch(kernel, config->gridDimX, config->blockDimX, config->sharedMemBytes, parameters);
  return failed ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}

}  // extern "C"
