// The one read of a row: half a warp takes a chunk of 256 tokens, 16 a lane, and leaves its maximum and its sum of
// weights.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

constexpr int kPerLane = kChunk / 16;
constexpr float kLog2eFloat = 1.4426950408889634f;

// Which token of the chunk lies at x[k] of a lane.
template <Dtype D>
static __device__ __forceinline__ int place_of(int lane, int k) {
  constexpr int n = Logits<D>::kVector;
  return (k / n * 16 + lane) * n + k % n;
}

// A lane's logits, as many in a word as fit.
template <Dtype D>
static __device__ __forceinline__ void read_chunk(const Row<D>& row, int j, int lane, uint32_t* words) {
  constexpr int n = Logits<D>::kVector, in_word = n / 4;
  const auto* chunk = row.x + static_cast<int64_t>(j) * kChunk;
  if ((j + 1) * kChunk <= row.vocab && reinterpret_cast<uintptr_t>(chunk) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < kPerLane / n; ++k) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(chunk) + k * 16 + lane);
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
static __device__ __forceinline__ T half_warp_reduce(T v, F f) {
  for (int d = 8; d; d >>= 1) v = f(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

// The sum of a over a half-warp in its lower eight lanes, that of b in the upper ones: both by the shuffles of one.
template <class T>
static __device__ __forceinline__ T half_warp_sums(T a, T b, bool is_upper) {
  T sum = (is_upper ? b : a) + __shfl_xor_sync(kAll, is_upper ? a : b, 8);
  for (int d = 4; d; d >>= 1) sum += __shfl_xor_sync(kAll, sum, d);
  return sum;
}

struct Part {  // of a chunk; `top` is the whole chunk's, the sums are one lane's
  float top;
  uint64_t weights;
  float e, ed, down;  // of exp(x - top), that times x - top, and x - top
};

template <Dtype D, bool WithStats>
static __device__ __forceinline__ Part part_of(const Row<D>& row, int j, int lane) {
  uint32_t words[kPerLane * 4 / Logits<D>::kVector];
  float x[kPerLane];
  read_chunk(row, j, lane, words);
  Part part = {half_warp_reduce(Logits<D>::largest(words), LargerOrNan()), 0, 0, 0, 0};
  const float from = part.top > kNever ? part.top : 0.0f;  // -inf - -inf would be a NaN
  Logits<D>::unpack(words, x);
  part.weights = static_cast<uint32_t>(light_weight(x[kPerLane - 1], from, row.factor));
#pragma unroll
  for (int k = 0; k + 3 <= kPerLane; k += 3) {  // three fit in 32 unsigned bits: fewer 64-bit additions
    part.weights += static_cast<uint32_t>(light_weight(x[k], from, row.factor)) +
                    static_cast<uint32_t>(light_weight(x[k + 1], from, row.factor)) +
                    static_cast<uint32_t>(light_weight(x[k + 2], from, row.factor));
  }
  if (WithStats) {
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      const float d = plus(x[k], -from);
      const float near = d > -69.0f ? d : -69.0f;  // 1e-30 of a maximum adds nothing, and -inf would add a NaN
      const float one = scaled_pow2<0>(times(near, kLog2eFloat));
      part.e += one;
      part.ed = fused(one, near, part.ed);
      if (j * kChunk + place_of<D>(lane, k) < row.vocab) part.down += d;
    }
  }
  return part;
}

template <Dtype D, bool WithStats>
static __device__ __forceinline__ void chunk_statistics(const Row<D>& row, int first, int step) {
  const int half = thread_of() / 16, lane = thread_of() % 16;
  const bool is_upper = lane >= 8;
  // A warp's halves shuffle together: what a lane does depends on the warp's first chunk alone.
  const auto is_any = [&](int j) { return j - (half & 1) < row.chunks; };
  for (int j = first + half; is_any(j); j += 2 * step) {
    const Part a = part_of<D, WithStats>(row, j, lane);
    const Part b = is_any(j + step) ? part_of<D, WithStats>(row, j + step, lane) : Part{};
    const int mine = is_upper ? j + step : j;
    const bool is_written = lane % 8 == 0 && mine < row.chunks;
    const uint64_t weights = half_warp_sums(a.weights, b.weights, is_upper);
    if (is_written) {
      row.tops[mine] = is_upper ? b.top : a.top;
      row.sums[mine] = static_cast<int64_t>(weights);
    }
    if (WithStats) {
      const float e = half_warp_sums(a.e, b.e, is_upper), ed = half_warp_sums(a.ed, b.ed, is_upper);
      const float down = half_warp_sums(a.down, b.down, is_upper);
      if (is_written) {
        row.moments[mine] = e;
        row.moments[row.chunks + mine] = ed;
        row.moments[2 * row.chunks + mine] = down;
      }
    }
  }
}

}  // namespace fastsample::cuda
