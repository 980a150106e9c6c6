// The thin vector type, NEON (aarch64): 4 lanes.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#define FASTSAMPLE_ISA neon

namespace fastsample::neon {

using F = float32x4_t;
using I = int32x4_t;
using Mask = uint32x4_t;
constexpr int kLanes = 4;

static inline F set(float x) { return vdupq_n_f32(x); }
static inline I set(int32_t x) { return vdupq_n_s32(x); }
static inline F load(const float* p) { return vld1q_f32(p); }
static inline void store(float* p, F x) { vst1q_f32(p, x); }
static inline void store(int32_t* p, I x) { vst1q_s32(p, x); }
static inline I iota() {
  const int32_t lanes[kLanes] = {0, 1, 2, 3};
  return vld1q_s32(lanes);
}

static inline F fused(F a, F b, F c) { return vfmaq_f32(c, a, b); }
static inline F larger(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // b where either is a NaN
static inline F smaller(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline F nearest(F x) { return vrndnq_f32(x); }
static inline I truncate(F x) { return vcvtq_s32_f32(x); }
static inline I add(I a, I b) {  // wraps around: gcc's vaddq_s32 is a signed addition, whose overflow is undefined
  return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
static inline F scale(F p, F r) {  // p * 2^r for r in [-126, 127], a NaN stays one
  return p * vreinterpretq_f32_s32(vshlq_n_s32(vcvtq_s32_f32(r + set(127.0f)), 23));
}

static inline Mask at_least(F a, F b) { return vcgeq_f32(a, b); }
static inline Mask equal(F a, F b) { return vceqq_f32(a, b); }
static inline Mask either_is_nan(F a, F b) { return vmvnq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))); }
static inline Mask without(Mask a, Mask b) { return vbicq_u32(a, b); }
static inline Mask unite(Mask a, Mask b) { return vorrq_u32(a, b); }
static inline Mask no_lane() { return vdupq_n_u32(0); }
static inline uint32_t bits(Mask m) {
  const uint32_t lanes[kLanes] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, vld1q_u32(lanes)));
}
static inline bool any(Mask m) { return vmaxvq_u32(m); }
static inline int count(Mask m) { return static_cast<int>(vaddvq_u32(vshrq_n_u32(m, 31))); }
static inline F pick(Mask m, F a, F b) { return vbslq_f32(m, a, b); }  // a where m, else b
static inline F ramp() {
  const float lanes[kLanes] = {1, 2, 3, 4};
  return vld1q_f32(lanes);
}
static inline F only(Mask m, F x) { return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(x))); }
static inline I only(Mask m, I x) { return vreinterpretq_s32_u32(vandq_u32(m, vreinterpretq_u32_s32(x))); }

static inline float max_of(F x) { return vmaxvq_f32(x); }
static inline float sum_of(F x) { return vaddvq_f32(x); }
static inline uint32_t sum_of(I x) { return vaddvq_u32(vreinterpretq_u32_s32(x)); }

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
static inline F widen(const float* p) { return vld1q_f32(p); }
static inline F widen_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16)); }
// 8 bfloat16 as two vectors, in any order: the odd ones need no shift, the even ones no mask.
static inline void widen_bf16_pair(const uint16_t* p, F* a, F* b) {
  const uint32x4_t x = vreinterpretq_u32_u16(vld1q_u16(p));
  *a = vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
  *b = vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000)));
}
static inline F widen_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

}  // namespace fastsample::neon
