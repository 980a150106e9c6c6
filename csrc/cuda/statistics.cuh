// The one read of a row: half a warp takes a chunk of 256 tokens, 16 a lane, and leaves its maximum and its sum of
// weights.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

constexpr int kPerLane = kChunk / 16;
constexpr float kLog2eFloat = 1.4426950408889634f;

template <Dtype D>
static __device__ __forceinline__ void read_chunk(const Row<D>& row, int j, int lane, float* x) {
  constexpr int n = Logits<D>::kVector;
  const auto* chunk = row.x + static_cast<int64_t>(j) * kChunk;
  if ((j + 1) * kChunk <= row.vocab && reinterpret_cast<uintptr_t>(chunk) % 16 == 0) {
    uint4 v[kPerLane / n];
#pragma unroll
    for (int k = 0; k < kPerLane / n; ++k) v[k] = __ldg(reinterpret_cast<const uint4*>(chunk) + k * 16 + lane);
#pragma unroll
    for (int k = 0; k < kPerLane / n; ++k) Logits<D>::unpack(v[k], x + k * n);
  } else {
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) x[k] = row.at(j * kChunk + (k / n * 16 + lane) * n + k % n);
  }
}

// Which token of the chunk read_chunk puts at x[k].
template <Dtype D>
static __device__ __forceinline__ int place_of(int lane, int k) {
  constexpr int n = Logits<D>::kVector;
  return (k / n * 16 + lane) * n + k % n;
}

template <class T, class F>
static __device__ __forceinline__ T half_warp_reduce(T v, F f) {
  for (int d = 8; d; d >>= 1) v = f(v, __shfl_xor_sync(kAll, v, d));
  return v;
}
struct LargerOrNan {
  __device__ float operator()(float a, float b) const { return b > a || b != b ? b : a; }
};

template <Dtype D, bool WithStats>
static __device__ __forceinline__ void chunk_statistics(const Row<D>& row, int first, int step) {
  const int half = static_cast<int>(threadIdx.x) / 16, lane = static_cast<int>(threadIdx.x) % 16;
  for (int j = first + half; j - (half & 1) < row.chunks; j += step) {  // a warp's halves stay together: they shuffle
    float x[kPerLane];
    read_chunk(row, j, lane, x);
    float top = x[0];
    bool is_nan = x[0] != x[0];
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) {
      top = fmaxf(top, x[k]);
      is_nan |= x[k] != x[k];
    }
    top = half_warp_reduce(is_nan ? __builtin_nanf("") : top, LargerOrNan());
    const float from = top > kNever ? top : 0.0f;  // -inf - -inf would be a NaN
    int64_t sum = 0;
#pragma unroll
    for (int k = 0; k < kPerLane; k += 2) {  // two weights fit in 32 unsigned bits: half as many 64-bit additions
      sum += static_cast<uint32_t>(light_weight(x[k], from, row.factor)) +
             static_cast<uint32_t>(light_weight(x[k + 1], from, row.factor));
    }
    sum = half_warp_reduce(sum, Add());
    const bool is_written = lane == 0 && j < row.chunks;
    if (is_written) {
      row.tops[j] = top;
      row.sums[j] = sum;
    }
    if (WithStats) {
      float e = 0, ed = 0, down = 0;
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) {
        const float d = plus(x[k], -from), z = times(d, kLog2eFloat);
        if (z > -100.0f) {
          const float one = scaled_pow2<0>(z);
          e += one;
          ed += one * d;
        }
        if (j * kChunk + place_of<D>(lane, k) < row.vocab) down += d;
      }
      e = half_warp_reduce(e, Add());
      ed = half_warp_reduce(ed, Add());
      down = half_warp_reduce(down, Add());
      if (is_written) {
        row.moments[j] = e;
        row.moments[row.chunks + j] = ed;
        row.moments[2 * row.chunks + j] = down;
      }
    }
  }
}

}  // namespace fastsample::cuda
