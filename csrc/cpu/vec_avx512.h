// The thin vector type, AVX-512 (x86-64-v4): 16 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FASTSAMPLE_ISA avx512

namespace fastsample::avx512 {

using F = __m512;
using I = __m512i;
using Mask = __mmask16;
constexpr int kLanes = 16;

static inline F set(float x) { return _mm512_set1_ps(x); }
static inline I set(int32_t x) { return _mm512_set1_epi32(x); }
static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
static inline void store(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
static inline I iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

static inline F fused(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F larger(F a, F b) { return _mm512_max_ps(a, b); }  // a > b ? a : b, so b where either is a NaN
static inline F smaller(F a, F b) { return _mm512_min_ps(a, b); }
static inline F nearest(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline F scale(F p, F r) { return _mm512_scalef_ps(p, r); }  // p * 2^r, a NaN stays one
static inline I truncate(F x) { return _mm512_cvttps_epi32(x); }
static inline I add(I a, I b) { return _mm512_add_epi32(a, b); }

static inline Mask at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline Mask equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline Mask either_is_nan(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
static inline Mask without(Mask a, Mask b) { return a & ~b; }
static inline Mask unite(Mask a, Mask b) { return a | b; }
static inline Mask no_lane() { return 0; }
static inline bool any(Mask m) { return m; }
static inline int count(Mask m) { return __builtin_popcount(m); }
static inline uint32_t bits(Mask m) { return m; }
static inline F pick(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }  // a where m, else b
static inline F ramp() {                                                          // 1, 2, ...
  return _mm512_setr_ps(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
}
static inline F only(Mask m, F x) { return _mm512_maskz_mov_ps(m, x); }
static inline I only(Mask m, I x) { return _mm512_maskz_mov_epi32(m, x); }

static inline float max_of(F x) { return _mm512_reduce_max_ps(x); }
static inline float sum_of(F x) { return _mm512_reduce_add_ps(x); }
static inline uint32_t sum_of(I x) {  // gcc's _mm512_reduce_add_epi32 adds signed integers, whose overflow is undefined
  const __m256i y = _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  __m128i z = _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  z = _mm_add_epi32(z, _mm_shuffle_epi32(z, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(z, _mm_shuffle_epi32(z, 0xb1))));
}

// Write the lanes of m side by side; up to 16 lanes behind them may be overwritten. (A compressing store is slow on
// Zen 4.)
static inline int pack(float* p, Mask m, F x) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(m, x));
  return count(m);
}
static inline int pack(int32_t* p, Mask m, I x) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(m, x));
  return count(m);
}

// 16 logits as float32, in order.
static inline F widen(const float* p) { return _mm512_loadu_ps(p); }
static inline F widen_bf16(const uint16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
// 32 bfloat16 as two vectors, in any order: the odd ones need no shift, the even ones no mask.
static inline void widen_bf16_pair(const uint16_t* p, F* a, F* b) {
  const __m512i x = _mm512_loadu_si512(p);
  *a = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
  *b = _mm512_castsi512_ps(_mm512_and_si512(x, set(static_cast<int32_t>(0xffff0000))));
}
static inline F widen_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

}  // namespace fastsample::avx512
