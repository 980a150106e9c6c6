// The launcher: a stream comes in, an error code goes out. No checks, no memory of its own.
#pragma once

#include "../args.h"

namespace fastsample::cuda {

// Of one device and stream; see kernel.cuh. `ticket` must be zero before the first launch and is left so.
struct Workspace {
  float* tops;
  int64_t* sums;
  float* moments;
  unsigned* ticket;
  int splits;
};

// How many blocks should share a row, for a device with that many multiprocessors.
int splits_for(int64_t rows, int64_t vocab, int multiprocessors);

// Launches on a stream of the current device; returns a cudaError_t.
int sample(const Call& call, const Workspace& space, void* stream);

// The newest CUDA that the driver knows (0 without a driver) and the one of this build: 1000 * major + 10 * minor.
int driver_version();
int toolkit_version();

const char* error_name(int code);

}  // namespace fastsample::cuda
