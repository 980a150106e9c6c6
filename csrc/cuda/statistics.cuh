// The one read of a row: eight lanes take a chunk of 256 tokens, 32 each, and leave its maximum and, where the mass of
// the whole row is asked for, its sum of weights.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

// Lanes that share a chunk. Issue slots of a float32 logit on sm_90a (bench/kernel_cost.py): 23 with 8, 28 with 16;
// with 4 the logits alone would fill the 64 registers that half of the warps leave each other.
constexpr int kLanes = 8;
constexpr int kPerLane = kChunk / kLanes;
constexpr float kLog2eFloat = 1.4426950408889634f;

// How a row's tokens are weighed: not at all; with `saturated_weight`; at temperatures above 1e36, whose factor would
// lose bits in it, with `light_weight`.
enum class Sums { kNone, kUsual, kHot };
constexpr float kLeastFactor = 0x1p-121f;

// Which token of a chunk lies at x[k] of a lane, where its order is not free.
template <Dtype D>
static __device__ __forceinline__ int place_of(int lane, int k) {
  constexpr int n = Logits<D>::kVector;
  return (k / n * kLanes + lane) * n + k % n;
}

// A lane's logits, as many in a word as fit. Integer sums do not mind their order within a whole chunk. So where a row
// starts between two vectors of 16 bytes, all vectors but one of a chunk are still read as such, and its first and last
// logits make up the other one. Float sums mind it: with statistics, each logit of such a row is read by itself, and
// the bits do not depend on where the row lies.
//
// `skipped`: logits before the row's first whole vector.
template <Dtype D, bool WithStats>
static __device__ __forceinline__ void read_chunk(const Row<D>& row, int j, int lane, int skipped, uint32_t* words) {
  constexpr int n = Logits<D>::kVector, in_word = n / 4, vectors = kPerLane / n;
  const auto put = [&](int k, int token) {
    const uint32_t bits = row.bits_at(j * kChunk + token);
    words[k / in_word] = k % in_word ? words[k / in_word] | bits << 16 : bits;
  };
  if ((j + 1) * kChunk > row.vocab || (WithStats && skipped)) {
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) put(k, place_of<D>(lane, k));
    return;
  }
  const auto* mine = row.x + skipped + lane * n + static_cast<int64_t>(j) * kChunk;
  const bool is_parted = !WithStats && skipped && lane == kLanes - 1;
#pragma unroll
  for (int k = 0; k < vectors; ++k) {
    if (k == vectors - 1 && is_parted) {
#pragma unroll
      for (int e = 0; e < n; ++e) put(k * n + e, e < skipped ? e : kChunk - n + e);
    } else {
      const uint4 v = load_vector(mine + k * kLanes * n);
      words[4 * k] = v.x, words[4 * k + 1] = v.y, words[4 * k + 2] = v.z, words[4 * k + 3] = v.w;
    }
  }
}

template <class T, class F>
static __device__ __forceinline__ T lanes_reduce(T v, F f) {
  for (int d = kLanes / 2; d; d >>= 1) v = f(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

// light_weight of a logit `d` below its chunk's maximum, for `scale` = -factor / 32, in an instruction less: a clamp to
// [0, 1] is a modifier of the product, and the factor 32 goes into additions that become fused ones.
static __device__ __forceinline__ uint32_t saturated_weight(float d, float scale) {
  static_assert(kLowestZ == -32.0f);
  constexpr float magic = 0x1.8p23f + kWeightBits;
  const float y = fminf(fmaxf(times(d, scale), 0.0f), 1.0f), t = fused(y, kLowestZ, magic);
  return static_cast<uint32_t>(of_bits(bits_of(polynomial(fused(y, kLowestZ, plus(magic, -t)))) + (bits_of(t) << 23)));
}

template <Dtype D, Sums S, bool WithStats>
static __device__ __forceinline__ void chunk_statistics(const Row<D>& row, int first, int step) {
  const int group = thread_of() / kLanes, lane = thread_of() % kLanes;
  const int skipped = static_cast<int>(-reinterpret_cast<uintptr_t>(row.x) % 16 / sizeof(*row.x));
  // A warp's lanes shuffle together, so all of them stay while the first of its chunks is one.
  for (int j = first + group; j - group % (32 / kLanes) < row.chunks; j += step) {
    uint32_t words[kPerLane * 4 / Logits<D>::kVector];
    float x[kPerLane];
    read_chunk<D, WithStats>(row, j, lane, skipped, words);
    const float top = lanes_reduce(Logits<D>::largest(words), LargerOrNan());
    const float from = top > kNever ? top : 0.0f;  // -inf - -inf would be a NaN
    if (S != Sums::kNone || WithStats) Logits<D>::unpack(words, x);
    const bool is_written = lane == 0 && j < row.chunks;
    if (is_written) row.tops[j] = top;
    if (S != Sums::kNone) {
      const float scale = times(row.factor, 1 / kLowestZ);
      const uint64_t mine = sum_of<kPerLane>(x, [&](float x) {
        return S == Sums::kUsual ? saturated_weight(plus(x, -from), scale) : light_weight(x, from, row.factor);
      });
      const uint64_t sum = lanes_reduce(mine, Add());
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
