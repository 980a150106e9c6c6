// The thin vector type, baseline x86-64 (SSE2): 4 lanes. No fused multiply-add in hardware, so it is made of float64.
#pragma once

#include <emmintrin.h>

#include <cstdint>

#include "half.h"

#define FASTSAMPLE_ISA sse2

namespace fastsample::sse2 {

using F = __m128;
using I = __m128i;
using Mask = __m128;
constexpr int kLanes = 4;

static inline F set(float x) { return _mm_set1_ps(x); }
static inline I set(int32_t x) { return _mm_set1_epi32(x); }
static inline F load(const float* p) { return _mm_loadu_ps(p); }
static inline void store(float* p, F x) { _mm_storeu_ps(p, x); }
static inline void store(int32_t* p, I x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }
static inline I iota() { return _mm_setr_epi32(0, 1, 2, 3); }

// Two lanes of a * b + c with one rounding to float32: the product is exact in float64, the sum is rounded to odd there
// (a NaN and an infinite sum are left alone), and a sum rounded to odd may be rounded once more.
static inline __m128 fused_pair(__m128d a, __m128d b, __m128d c) {
  const __m128d product = a * b, total = product + c, part = total - product;
  const __m128d lost = (product - (total - part)) + (c - part);
  const __m128d zero = _mm_setzero_pd();
  const __m128i is_inexact = _mm_castpd_si128(_mm_cmpneq_pd(lost, zero));
  const __m128i is_towards_zero =  // the dropped part points the other way than the sum: step the last bit back
      _mm_castpd_si128(_mm_xor_pd(_mm_cmplt_pd(lost, zero), _mm_cmplt_pd(total, zero)));
  const __m128i bits = _mm_castpd_si128(total), one = _mm_set_epi32(0, 1, 0, 1);
  const __m128i is_even = _mm_andnot_si128(bits, one);
  // even and inexact: + 1 away from zero, - 1 towards zero
  const __m128i step = _mm_and_si128(is_inexact, is_even);
  const __m128i back = _mm_and_si128(_mm_slli_epi64(step, 1), is_towards_zero);
  const __m128i is_nan = _mm_castpd_si128(_mm_cmpunord_pd(total, total));
  const __m128i odd = _mm_sub_epi64(_mm_add_epi64(bits, step), back);
  return _mm_cvtpd_ps(_mm_castsi128_pd(_mm_or_si128(_mm_and_si128(is_nan, bits), _mm_andnot_si128(is_nan, odd))));
}
static inline F fused(F a, F b, F c) {
  const __m128 low = fused_pair(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c));
  const __m128 high = fused_pair(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)),
                                 _mm_cvtps_pd(_mm_movehl_ps(c, c)));
  return _mm_movelh_ps(low, high);
}
static inline F larger(F a, F b) { return _mm_max_ps(a, b); }  // a > b ? a : b, so b where either is a NaN
static inline F smaller(F a, F b) { return _mm_min_ps(a, b); }
static inline F nearest(F x) { return (x + set(0x1.8p23f)) - set(0x1.8p23f); }  // for |x| < 2^22
static inline I truncate(F x) { return _mm_cvttps_epi32(x); }
static inline I add(I a, I b) { return _mm_add_epi32(a, b); }
static inline F scale(F p, F r) {  // p * 2^r for r in [-126, 127], a NaN stays one
  return p * _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtps_epi32(r + set(127.0f)), 23));
}

static inline Mask at_least(F a, F b) { return _mm_cmpge_ps(a, b); }
static inline Mask equal(F a, F b) { return _mm_cmpeq_ps(a, b); }
static inline Mask either_is_nan(F a, F b) { return _mm_cmpunord_ps(a, b); }
static inline Mask without(Mask a, Mask b) { return _mm_andnot_ps(b, a); }
static inline Mask unite(Mask a, Mask b) { return _mm_or_ps(a, b); }
static inline Mask no_lane() { return _mm_setzero_ps(); }
static inline uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm_movemask_ps(m)); }
static inline bool any(Mask m) { return bits(m); }
static inline int count(Mask m) { return __builtin_popcount(bits(m)); }
static inline F pick(Mask m, F a, F b) {  // a where m, else b
  return _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b));
}
static inline F ramp() { return _mm_setr_ps(1, 2, 3, 4); }
static inline F only(Mask m, F x) { return _mm_and_ps(m, x); }
static inline I only(Mask m, I x) { return _mm_and_si128(_mm_castps_si128(m), x); }

static inline float max_of(F x) {
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
static inline float sum_of(F x) {
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
static inline uint32_t sum_of(I x) {
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1))));
}

// Write the lanes of m side by side.
static inline int pack(float* p, Mask m, F x) {
  float lanes[kLanes];
  store(lanes, x);
  int n = 0;
  for (uint32_t left = bits(m); left; left &= left - 1) p[n++] = lanes[__builtin_ctz(left)];
  return n;
}
static inline int pack(int32_t* p, Mask m, I x) {
  int32_t lanes[kLanes];
  store(lanes, x);
  int n = 0;
  for (uint32_t left = bits(m); left; left &= left - 1) p[n++] = lanes[__builtin_ctz(left)];
  return n;
}

// 4 logits as float32, in order.
static inline F widen(const float* p) { return _mm_loadu_ps(p); }
static inline F widen_bf16(const uint16_t* p) {
  const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), x));
}
// 8 bfloat16 as two vectors, in any order: the odd ones need no shift, the even ones no mask.
static inline void widen_bf16_pair(const uint16_t* p, F* a, F* b) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  *a = _mm_castsi128_ps(_mm_slli_epi32(x, 16));
  *b = _mm_castsi128_ps(_mm_and_si128(x, set(static_cast<int32_t>(0xffff0000))));
}
static inline F widen_f16(const uint16_t* p) {
  return _mm_setr_ps(half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3]));
}

}  // namespace fastsample::sse2
