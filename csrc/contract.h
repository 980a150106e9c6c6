// The arithmetic of the sampling contract, once, for host and device (C++ and CUDA).
//
// Every function is `static`: each instruction set compiles its own copy, so that no copy can be linked into another's
// code. Where the contract says fma, one rounding is meant; everywhere else the compiler must not contract
// (-ffp-contract=off).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FASTSAMPLE_FN static __host__ __device__ __forceinline__
#else
#define FASTSAMPLE_FN static inline
#endif

namespace fastsample {

constexpr int kChunk = 256;      // tokens whose weights share one maximum
constexpr int kWeightBits = 30;  // a token's weight is an integer in [0, 2^30]
constexpr float kLowestZ = -32;  // of a token, relative to its chunk
constexpr float kLowestS = -64;  // of a chunk, relative to the row
constexpr double kLog2e = 1.4426950408889634;
constexpr float kSmallest = 0x1p-126f, kLargest = 0x1.fffffep127f;

// 2^f on [-1/2, 1/2]: minimax, relative error 1.1e-7; the constant term is 1.
constexpr float kA1 = 0x1.62e42ap-1f, kA2 = 0x1.ebf9bcp-3f, kA3 = 0x1.c6b752p-5f, kA4 = 0x1.3cea74p-7f,
                kA5 = 0x1.5bb9e6p-10f;

FASTSAMPLE_FN float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

FASTSAMPLE_FN float plus(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

FASTSAMPLE_FN float times(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// fl(fl(x - from) * c): how far x lies below `from`, in powers of two.
FASTSAMPLE_FN float below(float x, float from, float c) { return times(plus(x, -from), c); }

struct Pow2 {
  float p;  // in [0.70, 1.42]
  int r;    // 2^z = p * 2^r
};

// 2^f, |f| <= 1/2.
FASTSAMPLE_FN float polynomial(float f) {
  float p = fused(kA5, f, kA4);
  p = fused(p, f, kA3);
  p = fused(p, f, kA2);
  p = fused(p, f, kA1);
  return fused(p, f, 1.0f);
}

FASTSAMPLE_FN Pow2 pow2(float z) {
  const float magic = 0x1.8p23f;  // adding it rounds to the nearest integer, ties to even
  const float r = plus(plus(z, magic), -magic);
  return {polynomial(plus(z, -r)), static_cast<int>(r)};
}

FASTSAMPLE_FN double exponent(int r) {  // 2^r, for normal results
  const uint64_t bits = static_cast<uint64_t>(r + 1023) << 52;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A token's weight relative to its chunk's maximum; 0 where x = -inf.
FASTSAMPLE_FN int32_t weight(float x, float chunk_top, float c) {
  const float z = below(x, chunk_top, c);
  const Pow2 w = pow2(z > kLowestZ ? z : kLowestZ);
  return static_cast<int32_t>(w.p * exponent(w.r + kWeightBits));
}

FASTSAMPLE_FN uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
FASTSAMPLE_FN float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// 2^z * 2^Shift without float64, for z >= -100 and a normal result: the magic number that rounds z also leaves the
// exponent, with the shift in it, in the low bits of t.
template <int Shift>
FASTSAMPLE_FN float scaled_pow2(float z) {
  const float magic = 0x1.8p23f + Shift;
  const float t = plus(z, magic), p = polynomial(plus(z, -plus(t, -magic)));
  return of_bits(bits_of(p) + (bits_of(t) << 23));
}

// The same as `weight`, in float32 and int32 alone.
FASTSAMPLE_FN int32_t light_weight(float x, float chunk_top, float c) {
  const float z = below(x, chunk_top, c);
  return static_cast<int32_t>(scaled_pow2<kWeightBits>(z > kLowestZ ? z : kLowestZ));
}

// A chunk's scale relative to the row's maximum; 0 where the chunk has no finite logit.
FASTSAMPLE_FN double chunk_scale(float chunk_top, float row_top, float c) {
  if (!(chunk_top >= -kLargest)) return 0;
  const float z = below(chunk_top, row_top, c);
  const Pow2 s = pow2(z > kLowestS ? z : kLowestS);
  return s.p * exponent(s.r);
}

// The mass of a chunk whose kept weights sum to the integer `weights` (< 2^53).
FASTSAMPLE_FN int64_t mass(double weights, double scale) { return static_cast<int64_t>(weights * scale); }

// Whether a row's parameters are allowed: nothing has looked at a [B] tensor on a GPU. False for a NaN.
FASTSAMPLE_FN bool is_in_range(float temperature, int32_t top_k, float top_p, float min_p) {
  return temperature >= 0 && top_k >= 0 && top_p > 0 && top_p <= 1 && min_p >= 0 && min_p <= 1;
}

FASTSAMPLE_FN bool is_greedy(float temperature) { return temperature == 0; }

// The factor of a temperature > 0: log2(e) / T in float64, rounded once. Of any other a number too: a row is read
// before anything looks at its parameters.
FASTSAMPLE_FN float inverse_temperature(float temperature) {
  const double c = kLog2e / static_cast<double>(temperature);
  if (c > kLargest) return kLargest;
  return c >= kSmallest ? static_cast<float>(c) : kSmallest;
}

// The mass at which top_p closes the kept prefix; never 0, since neither factor is.
FASTSAMPLE_FN int64_t top_p_target(int64_t total, float top_p) {
  return static_cast<int64_t>(ceil(static_cast<double>(total) * static_cast<double>(top_p)));
}

FASTSAMPLE_FN float min_p_threshold(float min_p) { return static_cast<float>(log2(static_cast<double>(min_p))); }

FASTSAMPLE_FN uint64_t high_product(uint64_t a, uint64_t b) {  // (a * b) >> 64
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

struct Noise {
  uint64_t u1, u2;
};

// Philox4x32-10 (Salmon et al., SC 2011): key = seed, counter = (position, stream).
FASTSAMPLE_FN Noise philox(uint64_t seed, uint64_t stream, uint64_t position) {
  uint32_t a = static_cast<uint32_t>(position), b = static_cast<uint32_t>(position >> 32);
  uint32_t c = static_cast<uint32_t>(stream), d = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t x = static_cast<uint64_t>(0xD2511F53u) * a, y = static_cast<uint64_t>(0xCD9E8D57u) * c;
    const uint32_t b0 = b, d0 = d;
    a = static_cast<uint32_t>(y >> 32) ^ b0 ^ k0;
    b = static_cast<uint32_t>(y);
    c = static_cast<uint32_t>(x >> 32) ^ d0 ^ k1;
    d = static_cast<uint32_t>(x);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {a | static_cast<uint64_t>(b) << 32, c | static_cast<uint64_t>(d) << 32};
}

enum Status : int32_t { kValid = 0, kHoldsNan = 1, kHoldsInfinity = 2, kNoFinite = 3, kOutOfRange = 4 };

}  // namespace fastsample
