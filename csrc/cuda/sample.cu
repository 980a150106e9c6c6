// Instantiates the kernels for every dtype, and launches them.
#include <cuda_runtime.h>

#include <atomic>

#include "edit.cuh"

namespace fastsample::cuda {

struct Device {
  bool waits;           // the code that is loaded here waits for the launch before it by itself
  int multiprocessors;  // 1023 at most
  int team;             // blocks that a cluster may have
};

static cudaLaunchConfig_t configuration(int64_t blocks, cudaStream_t stream, cudaLaunchAttribute* attributes,
                                        int team) {
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(team), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = team > 1 ? 2 : 1;
  return config;
}

// What the current device is, asked once. That it waits, and knows clusters, the device itself does not say: what was
// compiled for an older architecture runs on a newer one, and does neither. All kernels here are of one compilation.
static cudaError_t ask(Device* device) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices] = {};  // 0: not asked yet
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  if (error != cudaSuccess) return error;
  int found = index < kDevices ? known[index].load(std::memory_order_relaxed) : 0;
  if (!found) {
    const auto kernel = finish_rows<Dtype::kFloat32>;
    cudaFuncAttributes attributes = {};
    int multiprocessors = 0, team = 1;
    error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index);
    if (error != cudaSuccess) return error;
    const bool waits = attributes.ptxVersion >= 90;
    for (int size = waits ? kMostBlocks : 1; size > team; size /= 2) {  // a part of a GPU may have room for fewer
      cudaLaunchAttribute of_launch[2] = {};
      const cudaLaunchConfig_t config = configuration(size, nullptr, of_launch, size);
      int clusters = 0;
      if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
        cudaGetLastError();  // no later call is to find it: it says that there is no room for so many
      } else if (clusters > 0) {
        team = size;
      }
    }
    found = 1 | waits << 1 | team << 2 | (multiprocessors < 1024 ? multiprocessors : 1023) << 8;
    if (index < kDevices) known[index].store(found, std::memory_order_relaxed);
  }
  *device = {(found >> 1 & 1) != 0, found >> 8, found >> 2 & 15};
  return cudaSuccess;
}

template <class... Arguments>
static cudaError_t launch(const Device& device, void (*kernel)(Arguments...), int64_t blocks, int team,
                          cudaStream_t stream, Arguments... arguments) {
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = configuration(blocks, stream, attributes, team);
  if (!device.waits) config.numAttrs = 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Blocks that finish a row together: more than one where multiprocessors would have no row.
int team_for(int64_t rows, int multiprocessors, int most) {
  int team = most;
  while (team > 1 && rows * team > multiprocessors) team /= 2;
  return team;
}

template <Dtype D>
static cudaError_t launch_both(const Call& call, Workspace space, cudaStream_t stream) {
  if (call.rows > INT32_MAX / space.splits) return cudaErrorInvalidConfiguration;  // blocks of a grid
  Device device;
  cudaError_t error = ask(&device);
  if (error != cudaSuccess) return error;
  const auto read = call.stats.logprob ? read_rows<D, true> : read_rows<D, false>;
  error = launch(device, read, call.rows * space.splits, 1, stream, call, space);
  if (error != cudaSuccess) return error;
  if (!space.team) space.team = team_for(call.rows, device.multiprocessors, device.team);
  return launch(device, finish_rows<D>, call.rows * space.team, space.team, stream, call, space);
}

int edit(const Call& call, const Edits& edits, void* rows, int64_t stride, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  constexpr int64_t tokens = kEditChunks * kChunk;
  const Copies copies = {rows, stride, static_cast<int>((call.vocab + tokens - 1) / tokens)};
  if (call.rows > INT32_MAX / copies.splits) return cudaErrorInvalidConfiguration;
  const int64_t blocks = call.rows * copies.splits;
  Device device;
  const cudaError_t error = ask(&device);
  if (error != cudaSuccess) return error;
  switch (call.dtype) {
    case Dtype::kFloat32:
      return launch(device, edit_rows<Dtype::kFloat32>, blocks, 1, on, call, edits, copies);
    case Dtype::kBfloat16:
      return launch(device, edit_rows<Dtype::kBfloat16>, blocks, 1, on, call, edits, copies);
    default:
      return launch(device, edit_rows<Dtype::kFloat16>, blocks, 1, on, call, edits, copies);
  }
}

Workspace workspace_at(void* memory, int64_t rows, int64_t vocab, int splits, int team) {
  const int64_t chunks = rows * ((vocab + kChunk - 1) / kChunk);
  auto* const sums = static_cast<int64_t*>(memory);
  auto* const tops = reinterpret_cast<float*>(sums + chunks);
  return {sums, tops, tops + chunks, splits, team};
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
