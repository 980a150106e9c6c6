// The thin vector type, AVX2 + FMA + F16C (x86-64-v3): 8 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FASTSAMPLE_ISA avx2

namespace fastsample::avx2 {

using F = __m256;
using I = __m256i;
using Mask = __m256;
constexpr int kLanes = 8;

static inline F set(float x) { return _mm256_set1_ps(x); }
static inline I set(int32_t x) { return _mm256_set1_epi32(x); }
static inline F load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
static inline void store(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
static inline I iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

static inline F fused(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F larger(F a, F b) { return _mm256_max_ps(a, b); }  // a > b ? a : b, so b where either is a NaN
static inline F smaller(F a, F b) { return _mm256_min_ps(a, b); }
static inline F nearest(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline I truncate(F x) { return _mm256_cvttps_epi32(x); }
static inline I add(I a, I b) { return _mm256_add_epi32(a, b); }
static inline F scale(F p, F r) {  // p * 2^r for r in [-126, 127], a NaN stays one
  return p * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtps_epi32(r + set(127.0f)), 23));
}

static inline Mask at_least(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline Mask equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline Mask either_is_nan(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
static inline Mask without(Mask a, Mask b) { return _mm256_andnot_ps(b, a); }
static inline Mask unite(Mask a, Mask b) { return _mm256_or_ps(a, b); }
static inline Mask no_lane() { return _mm256_setzero_ps(); }
static inline uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
static inline bool any(Mask m) { return bits(m); }
static inline int count(Mask m) { return __builtin_popcount(bits(m)); }
static inline F pick(Mask m, F a, F b) { return _mm256_blendv_ps(b, a, m); }  // a where m, else b
static inline F ramp() { return _mm256_setr_ps(1, 2, 3, 4, 5, 6, 7, 8); }
static inline F only(Mask m, F x) { return _mm256_and_ps(m, x); }
static inline I only(Mask m, I x) { return _mm256_and_si256(_mm256_castps_si256(m), x); }

static inline float max_of(F x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
static inline float sum_of(F x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
static inline uint32_t sum_of(I x) {
  __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1))));
}

// The lanes of m, moved to the front: the indices come out of the mask's bits with BMI2, without a table.
static inline __m256i front(Mask m) {
  const uint64_t spread = _pdep_u64(bits(m), 0x0101010101010101u) * 0xff;
  const uint64_t lanes = _pext_u64(0x0706050403020100u, spread);
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(lanes)));
}
// Write the lanes of m side by side; up to 8 lanes behind them may be overwritten.
static inline int pack(float* p, Mask m, F x) {
  _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(x, front(m)));
  return count(m);
}
static inline int pack(int32_t* p, Mask m, I x) {
  store(p, _mm256_permutevar8x32_epi32(x, front(m)));
  return count(m);
}

// 8 logits as float32, in order.
static inline F widen(const float* p) { return _mm256_loadu_ps(p); }
static inline F widen_bf16(const uint16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
// 16 bfloat16 as two vectors, in any order: the odd ones need no shift, the even ones no mask.
static inline void widen_bf16_pair(const uint16_t* p, F* a, F* b) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  *a = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
  *b = _mm256_castsi256_ps(_mm256_and_si256(x, set(static_cast<int32_t>(0xffff0000))));
}
static inline F widen_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

}  // namespace fastsample::avx2
