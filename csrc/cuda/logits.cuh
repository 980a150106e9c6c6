// A row of logits as float32, and its order as integer keys.
#pragma once

#include "team.cuh"

namespace fastsample::cuda {

constexpr float kNever = -__builtin_inff();

static __device__ __forceinline__ float from_bfloat16(uint32_t bits) { return of_bits(bits << 16); }

// Exact: subnormals are scaled by a power of two, infinities and NaNs keep theirs.
static __device__ __forceinline__ float from_float16(uint32_t bits) {
#ifdef __CUDA_ARCH__
  float x;  // one instruction, and as exact
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(bits)));
  return x;
#else
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  const float finite = times(of_bits(magnitude), 0x1p112f);
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u | magnitude : bits_of(finite);
  return of_bits(special | (bits & 0x8000u) << 16);
#endif
}

template <Dtype D>
struct Logits;
template <>
struct Logits<Dtype::kFloat32> {
  using Element = float;
  static constexpr int kVector = 4;  // elements of 16 bytes
  static constexpr uint32_t kNeverBits = 0xff800000u;
  static constexpr int kShift = 0;  // bits of a float32 that no such logit uses
  static __device__ __forceinline__ float wide(float x) { return x; }
  static __device__ __forceinline__ float wide_of(uint32_t word, unsigned) { return of_bits(word); }
  static __device__ __forceinline__ uint32_t bits(float x) { return bits_of(x); }
  template <int N>
  static __device__ __forceinline__ void unpack(const uint32_t (&words)[N], float* x) {
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] = of_bits(words[k]);
  }
  template <int N>
  static __device__ __forceinline__ float largest(const uint32_t (&words)[N]) {
    float top = of_bits(words[0]);
#pragma unroll
    for (int k = 1; k < N; ++k) top = LargerOrNan()(top, of_bits(words[k]));
    return top;
  }
};
template <Dtype D>
struct HalfLogits {
  using Element = uint16_t;
  static constexpr int kVector = 8;
  static constexpr uint32_t kNeverBits = D == Dtype::kBfloat16 ? 0xff80u : 0xfc00u;
  static constexpr int kShift = D == Dtype::kBfloat16 ? 16 : 13;
  static __device__ __forceinline__ float wide(uint32_t bits) {
    return D == Dtype::kBfloat16 ? from_bfloat16(bits) : from_float16(bits);
  }
  static __device__ __forceinline__ float wide_of(uint32_t word, unsigned k) { return wide(word >> 16 * k & 0xffffu); }
  static __device__ __forceinline__ uint32_t bits(uint16_t x) { return x; }
  template <int N>
  static __device__ __forceinline__ void unpack(const uint32_t (&words)[N], float* x) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      x[2 * k] = wide(words[k] & 0xffffu);
      x[2 * k + 1] = wide(words[k] >> 16);
    }
  }
  template <int N>
  static __device__ __forceinline__ float largest(const uint32_t (&words)[N]) {
    uint32_t top = words[0];
#pragma unroll
    for (int k = 1; k < N; ++k) top = larger_pair(top, words[k]);
    return LargerOrNan()(wide(top & 0xffffu), wide(top >> 16));
  }
  // LargerOrNan of the two logits of a word, in one instruction.
  static __device__ __forceinline__ uint32_t larger_pair(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    uint32_t top;
    if (D == Dtype::kBfloat16) {
      asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(top) : "r"(a), "r"(b));
    } else {
      asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(top) : "r"(a), "r"(b));
    }
    return top;
#else
    const auto larger = [&](uint32_t mask, int shift) {
      const float x = wide((a & mask) >> shift), y = wide((b & mask) >> shift);
      return (y > x || y != y ? b : a) & mask;
    };
    return larger(0xffffu, 0) | larger(0xffff0000u, 16);
#endif
  }
};
template <>
struct Logits<Dtype::kBfloat16> : HalfLogits<Dtype::kBfloat16> {};
template <>
struct Logits<Dtype::kFloat16> : HalfLogits<Dtype::kFloat16> {};

// 2^z to the last bits but two, for what no token hangs on.
static __device__ __forceinline__ float roughly_pow2(float z) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(z));
  return power;
#else
  return exp2f(z);
#endif
}

// A rank orders logits: neighbouring values of the type have neighbouring ranks. -0 and +0 are one value, of rank 0.
template <Dtype D>
static __device__ __forceinline__ int32_t rank_of(float x) {
  const int32_t bits = static_cast<int32_t>(bits_of(x == 0 ? 0.0f : x));
  return (bits < 0 ? bits ^ 0x7fffffff : bits) >> Logits<D>::kShift;
}
template <Dtype D>
static __device__ __forceinline__ float at_rank(int32_t rank) {  // no logit has rank -1 (-0); it stands for +0
  constexpr uint32_t unused = (1u << Logits<D>::kShift) - 1;
  const uint32_t bits = static_cast<uint32_t>(rank) << Logits<D>::kShift;
  return rank == -1 ? 0.0f : of_bits(rank < 0 ? (bits | unused) ^ 0x7fffffffu : bits);
}

// A key orders a row by (logit descending, index ascending): the logit's rank, then the index from behind.
constexpr int kIndexBits = 20;
constexpr int64_t kIndexMask = (1 << kIndexBits) - 1;
template <Dtype D>
static __device__ __forceinline__ int64_t key_of(float x, int i) {
  return static_cast<int64_t>(rank_of<D>(x)) * (1 << kIndexBits) + (i ^ kIndexMask);
}
static __device__ __forceinline__ int index_of(int64_t key) {
  return static_cast<int>((key & kIndexMask) ^ kIndexMask);
}
template <Dtype D>
static __device__ __forceinline__ float value_of(int64_t key) {
  return at_rank<D>(static_cast<int32_t>(key >> kIndexBits));
}

// The last kept token: kept are those of x > value, and of x == value up to `last`.
struct Edge {
  float value;
  int last;
  __device__ __forceinline__ bool reaches(float x, int i) const { return x > value || (x == value && i <= last); }
};

// A row's place, and what is known of its chunks.
template <Dtype D>
struct Row {
  const typename Logits<D>::Element* x;
  int vocab, chunks;
  float factor;
  float* tops;     // [chunks]
  int64_t* sums;   // [chunks]: of the weights, later of the kept ones
  float* moments;  // [3][chunks]
  float top = 0;

  __device__ __forceinline__ float at(int i) const { return i < vocab ? Logits<D>::wide(x[i]) : kNever; }
  __device__ __forceinline__ uint32_t bits_at(int i) const {
    return i < vocab ? Logits<D>::bits(x[i]) : Logits<D>::kNeverBits;
  }
  __device__ __forceinline__ double scale(int j) const { return scale_of(tops[j]); }
  // chunk_scale without float64 but for the result.
  __device__ __forceinline__ double scale_of(float chunk_top) const {
    if (!(chunk_top > kNever)) return 0;
    const float z = below(chunk_top, top, factor);
    return static_cast<double>(scaled_pow2<0>(z > kLowestS ? z : kLowestS));
  }
  __device__ __forceinline__ int64_t mass_of(int64_t weights, int j) const {
    return mass(static_cast<double>(weights), scale(j));
  }
  // The lowest finite logit that this type has, and no chunk's maximum where all are below it.
  static __device__ float lowest() { return at_rank<D>(rank_of<D>(-kLargest)); }
};

// 16 bytes of the row, which a launch before this one may have written while this one began: not by the read-only path.
static __device__ __forceinline__ uint4 load_vector(const void* at) {
#ifdef __CUDA_ARCH__
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
#else
  return *static_cast<const uint4*>(at);
#endif
}

constexpr int kFit = 3;  // weights of at most 2^30 that 32 unsigned bits hold: fewer 64-bit additions

// The sum of what N logits weigh.
template <int N, class Weight>
static __device__ __forceinline__ uint64_t sum_of(const float* x, Weight weight) {
  uint64_t sum = 0;
#pragma unroll
  for (int k = 0; k < N; k += kFit) {
    uint32_t some = 0;
#pragma unroll
    for (int i = k; i < k + kFit && i < N; ++i) some += static_cast<uint32_t>(weight(x[i]));
    sum += some;
  }
  return sum;
}

// A warp's part of chunk j: eight neighbouring logits a lane, of which `place` is the first.
constexpr int kEight = 8;
template <Dtype D>
struct Eight {
  uint32_t words[kEight * sizeof(typename Logits<D>::Element) / 4];
  static __device__ __forceinline__ int place(int j) { return j * kChunk + lane_of() * kEight; }
  __device__ __forceinline__ void read(const Row<D>& row, int j) {
    constexpr int n = Logits<D>::kVector, in_word = n / 4;
    const auto* from = row.x + static_cast<int64_t>(place(j));
    if ((j + 1) * kChunk <= row.vocab && reinterpret_cast<uintptr_t>(row.x) % 16 == 0) {
#pragma unroll
      for (int k = 0; k < kEight / n; ++k) {
        const uint4 v = load_vector(from + k * n);
        words[4 * k] = v.x, words[4 * k + 1] = v.y, words[4 * k + 2] = v.z, words[4 * k + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int k = 0; k < kEight; ++k) {
        const uint32_t bits = row.bits_at(place(j) + k);
        words[k / in_word] = k % in_word ? words[k / in_word] | bits << 16 : bits;
      }
    }
  }
  __device__ __forceinline__ void unpack(float* x) const { Logits<D>::unpack(words, x); }
  __device__ __forceinline__ float pick(unsigned e) const {
    constexpr int n = sizeof(words) / sizeof(*words), in_word = kEight / n;
    return Logits<D>::wide_of(word<0, n>(e / in_word), e % in_word);
  }

 private:
  // Of N words from A on, number i: selected, since an array with such an index would lie in slow memory.
  template <int A, int N>
  __device__ __forceinline__ uint32_t word(unsigned i) const {
    if constexpr (N == 1) {
      return words[A];
    } else {
      const uint32_t low = word<A, N / 2>(i), high = word<A + N / 2, N / 2>(i);
      return i & N / 2 ? high : low;
    }
  }
};

}  // namespace fastsample::cuda
