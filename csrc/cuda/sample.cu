// Instantiates the kernel for every dtype, and launches it.
#include <cuda_runtime.h>

#include "kernel.cuh"

namespace fastsample::cuda {

template <Dtype D, bool WithStats>
static cudaError_t launch(const Call& call, const Workspace& space, cudaStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  if (call.rows > INT32_MAX / space.splits) return cudaErrorInvalidConfiguration;  // blocks of a grid
  config.gridDim = dim3(static_cast<unsigned>(call.rows * space.splits));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  config.attrs = &attribute;
  config.numAttrs = major >= 9 ? 1 : 0;  // the kernel waits for the launch before it by itself, from sm_90 on
  return cudaLaunchKernelEx(&config, sample_kernel<D, WithStats>, call, space);
}

template <Dtype D>
static cudaError_t launch_for(const Call& call, const Workspace& space, cudaStream_t stream) {
  return call.stats.logprob ? launch<D, true>(call, space, stream) : launch<D, false>(call, space, stream);
}

int splits_for(int64_t rows, int64_t vocab, int multiprocessors) {
  const int64_t wanted = (4 * static_cast<int64_t>(multiprocessors) + rows - 1) / rows;
  const int64_t at_once = kThreads / kLanes * kChunk, most = (vocab + at_once - 1) / at_once;  // tokens, blocks
  return static_cast<int>(wanted < most ? wanted : most);
}

int sample(const Call& call, const Workspace& space, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  switch (call.dtype) {
    case Dtype::kFloat32:
      return launch_for<Dtype::kFloat32>(call, space, on);
    case Dtype::kBfloat16:
      return launch_for<Dtype::kBfloat16>(call, space, on);
    default:
      return launch_for<Dtype::kFloat16>(call, space, on);
  }
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int toolkit_version() { return CUDART_VERSION; }

const char* error_name(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace fastsample::cuda
