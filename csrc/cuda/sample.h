// The launcher: a stream comes in, an error code goes out. No checks, no memory of its own.
#pragma once

#include "../args.h"

namespace fastsample::cuda {

// What the first kernel leaves to the second. It belongs to one call, and nothing in it need be written before.
struct Workspace {
  int64_t* sums;   // [B, chunks], of weights
  float* tops;     // [B, chunks], maxima
  float* moments;  // [B, 3, chunks], of rows with statistics
  int splits;      // blocks that share a row in the first kernel
  int team;        // and in the second, a power of two; 0: as the device has them to spare
};

// A workspace in memory of 12 bytes a chunk (24 with statistics), which starts at 8 bytes.
Workspace workspace_at(void* memory, int64_t rows, int64_t vocab, int splits, int team);

// How many blocks should share a row, for a device that runs so many of the first kernel's at once.
int splits_for(int64_t rows, int64_t vocab, int at_once);

// How many blocks finish a row together, on a device of so many multiprocessors where a cluster may have `most`.
int team_for(int64_t rows, int multiprocessors, int most);

// Launches on a stream of the current device; returns a cudaError_t.
int sample(const Call& call, const Workspace& space, void* stream);

// Writes the rows of a call as they are once edited: [B, stride] logits at `rows`, both multiples of 16 bytes. The call
// on them has no indices. Launches on a stream of the current device; returns a cudaError_t.
int edit(const Call& call, const Edits& edits, void* rows, int64_t stride, void* stream);

// The newest CUDA that the driver knows (0 without a driver) and the one of this build: 1000 * major + 10 * minor.
int driver_version();
int toolkit_version();

const char* error_name(int code);

}  // namespace fastsample::cuda
