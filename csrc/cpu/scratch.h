// What one row leaves between stage 1 and stage 2: views of memory that a thread keeps from call to call.
//
// 62 KB at 262,144 tokens: 24 bytes a chunk, and the fixed arrays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../contract.h"

namespace fastsample {

constexpr int kBins = 512;            // of the histogram over a row's upper logits
constexpr int kMaxCandidates = 4096;  // tokens that can be ranked at once
constexpr int kSlack = 16;            // lanes that a packed store may overwrite behind the last candidate

struct Moments {  // of a chunk's softmax at temperature 1, relative to its maximum, times 2^30
  float e;        // sum of e^d
  float ed;       // sum of e^d * d
  float down;     // sum of d, over the chunk's own tokens
};

// Of an edited row: see patches.h.
struct Patches {
  const void** at = nullptr;  // [chunks]: a chunk's copy, or null; null for a row that is not edited
  void* copies = nullptr;     // [chunks * kChunk] logits, of which only those of copies are ever written

  static constexpr size_t bytes(int64_t chunks, int64_t logit_bytes);
  static Patches in(void* memory, int64_t chunks);
};

struct Scratch {
  Patches patches;

  // a value a chunk
  float* top;        // maximum
  double* sum;       // sum of the kept tokens' weights: an integer
  double* scale;     // of the chunk's weights relative to the row
  uint32_t* order;   // chunks by descending maximum
  Moments* moments;  // shares its memory with the candidates: read before the first of them is written

  // fixed sizes
  float* mass;       // [kBins + 1]
  uint32_t* count;   // [kBins + 1]
  float* candidate;  // [kMaxCandidates + kSlack] logits
  int32_t* candidate_index;

  static constexpr size_t bytes(int64_t chunks);
  static Scratch in(void* memory, int64_t chunks);
};

constexpr size_t Scratch::bytes(int64_t chunks) {
  const size_t candidates = (kMaxCandidates + kSlack) * 8, moments = static_cast<size_t>(chunks) * sizeof(Moments);
  return static_cast<size_t>(chunks) * 24 + (kBins + 1) * 8 + (candidates > moments ? candidates : moments) + 7 * 64;
}

static_assert(Scratch::bytes(262'144 / 256) <= 64 * 1024, "a thread's scratch fits its L1 and L2 caches");

constexpr size_t Patches::bytes(int64_t chunks, int64_t logit_bytes) {
  return static_cast<size_t>(chunks) * sizeof(void*) + 64 + static_cast<size_t>(chunks * kChunk * logit_bytes);
}

inline Patches Patches::in(void* memory, int64_t chunks) {
  const size_t table = (static_cast<size_t>(chunks) * sizeof(void*) + 63) / 64 * 64;
  return {static_cast<const void**>(memory), static_cast<char*>(memory) + table};
}

inline Scratch Scratch::in(void* memory, int64_t chunks) {
  char* at = static_cast<char*>(memory);
  const auto take = [&at](size_t size) {
    char* start = at;
    at += (size + 63) / 64 * 64;
    return static_cast<void*>(start);
  };
  const size_t n = static_cast<size_t>(chunks);
  Scratch s;
  s.top = static_cast<float*>(take(n * sizeof(float)));
  s.sum = static_cast<double*>(take(n * sizeof(double)));
  s.scale = static_cast<double*>(take(n * sizeof(double)));
  s.order = static_cast<uint32_t*>(take(n * sizeof(uint32_t)));
  s.mass = static_cast<float*>(take((kBins + 1) * sizeof(float)));
  s.count = static_cast<uint32_t*>(take((kBins + 1) * sizeof(uint32_t)));
  s.moments = reinterpret_cast<Moments*>(at);
  s.candidate = static_cast<float*>(take((kMaxCandidates + kSlack) * sizeof(float)));
  s.candidate_index = reinterpret_cast<int32_t*>(at);
  return s;
}

}  // namespace fastsample
