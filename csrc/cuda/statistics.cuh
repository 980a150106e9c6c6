// The one read of a row: eight lanes take a chunk of 256 tokens, 32 each, and leave its maximum and, where the mass of
// the whole row is asked for, its sum of weights.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

// Lanes that share a chunk. Issue slots of a float32 logit on sm_90a (bench/kernel_cost.py): 23 with 8, 28 with 16;
// with 4 the logits alone would fill the 64 registers that half of the warps leave each other.
constexpr int kLanes = 8;
constexpr int kPerLane = kChunk / kLanes;
constexpr int kFit = 3;  // weights of at most 2^30 that 32 unsigned bits hold: fewer 64-bit additions
constexpr float kLog2eFloat = 1.4426950408889634f;

// Which token of the chunk lies at x[k] of a lane.
template <Dtype D>
static __device__ __forceinline__ int place_of(int lane, int k) {
  constexpr int n = Logits<D>::kVector;
  return (k / n * kLanes + lane) * n + k % n;
}

// A lane's logits, as many in a word as fit.
template <Dtype D>
static __device__ __forceinline__ void read_chunk(const Row<D>& row, int j, int lane, uint32_t* words) {
  constexpr int n = Logits<D>::kVector, in_word = n / 4;
  const auto* chunk = row.x + static_cast<int64_t>(j) * kChunk;
  if ((j + 1) * kChunk <= row.vocab && reinterpret_cast<uintptr_t>(chunk) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < kPerLane / n; ++k) {
      const uint4 v = load_vector(reinterpret_cast<const uint4*>(chunk) + k * kLanes + lane);
      words[4 * k] = v.x, words[4 * k + 1] = v.y, words[4 * k + 2] = v.z, words[4 * k + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      const uint32_t bits = row.bits_at(j * kChunk + place_of<D>(lane, k));
      words[k / in_word] = k % in_word ? words[k / in_word] | bits << 16 : bits;
    }
  }
}

template <class T, class F>
static __device__ __forceinline__ T lanes_reduce(T v, F f) {
  for (int d = kLanes / 2; d; d >>= 1) v = f(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

// 2^z to the last bits but a few: what it is for is bound to 1e-5.
static __device__ __forceinline__ float roughly_pow2(float z) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(z));
  return power;
#else
  return exp2f(z);
#endif
}

template <Dtype D, bool WithSums, bool WithStats>
static __device__ __forceinline__ void chunk_statistics(const Row<D>& row, int first, int step) {
  const int group = thread_of() / kLanes, lane = thread_of() % kLanes;
  // A warp's lanes shuffle together, so all of them stay while the first of its chunks is one.
  for (int j = first + group; j - group % (32 / kLanes) < row.chunks; j += step) {
    uint32_t words[kPerLane * 4 / Logits<D>::kVector];
    float x[kPerLane];
    read_chunk(row, j, lane, words);
    const float top = lanes_reduce(Logits<D>::largest(words), LargerOrNan());
    const float from = top > kNever ? top : 0.0f;  // -inf - -inf would be a NaN
    if (WithSums || WithStats) Logits<D>::unpack(words, x);
    const bool is_written = lane == 0 && j < row.chunks;
    if (is_written) row.tops[j] = top;
    if (WithSums) {
      uint64_t sum = 0;
#pragma unroll
      for (int k = 0; k < kPerLane; k += kFit) {
        uint32_t some = 0;
#pragma unroll
        for (int i = k; i < k + kFit && i < kPerLane; ++i) {
          some += static_cast<uint32_t>(light_weight(x[i], from, row.factor));
        }
        sum += some;
      }
      sum = lanes_reduce(sum, Add());
      if (is_written) row.sums[j] = static_cast<int64_t>(sum);
    }
    if (WithStats) {
      float e = 0, ed = 0, down = 0;
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) {
        const float d = plus(x[k], -from);
        const float near = d > -69.0f ? d : -69.0f;  // 1e-30 of a maximum adds nothing, and -inf would add a NaN
        const float one = roughly_pow2(times(near, kLog2eFloat));
        e += one;
        ed = fused(one, near, ed);
        if (j * kChunk + place_of<D>(lane, k) < row.vocab) down += d;
      }
      e = lanes_reduce(e, Add());
      ed = lanes_reduce(ed, Add());
      down = lanes_reduce(down, Add());
      if (is_written) {
        row.moments[j] = e;
        row.moments[row.chunks + j] = ed;
        row.moments[2 * row.chunks + j] = down;
      }
    }
  }
}

}  // namespace fastsample::cuda
