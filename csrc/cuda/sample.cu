// Instantiates the kernels for every dtype, and launches them.
#include <cuda_runtime.h>

#include <atomic>

#include "edit.cuh"

namespace fastsample::cuda {

// Whether the kernel that is loaded here waits for the launch before it by itself. The device does not say it: what was
// compiled for an older architecture runs on a newer one, and does not wait. All kernels here are of one compilation.
template <class... Arguments>
static cudaError_t waits_by_itself(void (*kernel)(Arguments...), bool* waits) {
  constexpr int kDevices = 64;
  static std::atomic<signed char> known[kDevices] = {};  // 0: not asked yet
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  signed char found = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (!found) {
    cudaFuncAttributes attributes = {};
    error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    found = attributes.ptxVersion >= 90 ? 1 : -1;
    if (device < kDevices) known[device].store(found, std::memory_order_relaxed);
  }
  *waits = found > 0;
  return cudaSuccess;
}

template <class... Arguments>
static cudaError_t launch(void (*kernel)(Arguments...), int64_t blocks, cudaStream_t stream, Arguments... arguments) {
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  bool waits = false;
  const cudaError_t error = waits_by_itself(kernel, &waits);
  if (error != cudaSuccess) return error;
  config.numAttrs = waits ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <Dtype D>
static cudaError_t launch_both(const Call& call, const Workspace& space, cudaStream_t stream) {
  if (call.rows > INT32_MAX / space.splits) return cudaErrorInvalidConfiguration;  // blocks of a grid
  const auto read = call.stats.logprob ? read_rows<D, true> : read_rows<D, false>;
  const cudaError_t error = launch(read, call.rows * space.splits, stream, call, space);
  return error == cudaSuccess ? launch(finish_rows<D>, call.rows, stream, call, space) : error;
}

int edit(const Call& call, const Edits& edits, void* rows, int64_t stride, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  constexpr int64_t tokens = kEditChunks * kChunk;
  const Copies copies = {rows, stride, static_cast<int>((call.vocab + tokens - 1) / tokens)};
  if (call.rows > INT32_MAX / copies.splits) return cudaErrorInvalidConfiguration;
  const int64_t blocks = call.rows * copies.splits;
  switch (call.dtype) {
    case Dtype::kFloat32:
      return launch(edit_rows<Dtype::kFloat32>, blocks, on, call, edits, copies);
    case Dtype::kBfloat16:
      return launch(edit_rows<Dtype::kBfloat16>, blocks, on, call, edits, copies);
    default:
      return launch(edit_rows<Dtype::kFloat16>, blocks, on, call, edits, copies);
  }
}

Workspace workspace_at(void* memory, int64_t rows, int64_t vocab, int splits) {
  const int64_t chunks = rows * ((vocab + kChunk - 1) / kChunk);
  auto* const sums = static_cast<int64_t*>(memory);
  auto* const tops = reinterpret_cast<float*>(sums + chunks);
  return {sums, tops, tops + chunks, splits};
}

// Rounded down: a few blocks more than fit would run alone at the end, and take as long as all before them.
int splits_for(int64_t rows, int64_t vocab, int at_once) {
  const int64_t wanted = rows < at_once ? at_once / (rows > 1 ? rows : 1) : 1;
  const int64_t tokens = kThreads / kLanes * kChunk, most = (vocab + tokens - 1) / tokens;
  return static_cast<int>(wanted < most ? wanted : most);
}

int sample(const Call& call, const Workspace& space, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  switch (call.dtype) {
    case Dtype::kFloat32:
      return launch_both<Dtype::kFloat32>(call, space, on);
    case Dtype::kBfloat16:
      return launch_both<Dtype::kBfloat16>(call, space, on);
    default:
      return launch_both<Dtype::kFloat16>(call, space, on);
  }
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int toolkit_version() { return CUDART_VERSION; }

const char* error_name(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace fastsample::cuda
