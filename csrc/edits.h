// What is done to a logit before the draw, once, for host and device: fastsample/sampling/edits.py has the definition.
#pragma once

#include "args.h"
#include "contract.h"

namespace fastsample {

constexpr int kWord = 32;  // tokens of a word of the bitmask

FASTSAMPLE_FN float divided(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// Of one row.
struct Penalties {
  float repetition, frequency, presence;
};

FASTSAMPLE_FN Penalties penalties_of(const Edits& edits, int64_t b) {
  return {edits.repetition[b], edits.frequency[b], edits.presence[b]};
}

// A logit with its bias and the row's penalties, in float32; count as in EditColumns.
FASTSAMPLE_FN float edited(float x, int32_t count, float bias, const Penalties& of) {
  x = plus(x, bias);
  if (count != 0) x = x > 0 ? divided(x, of.repetition) : times(x, of.repetition);
  x = plus(x, -times(of.frequency, static_cast<float>(count > 0 ? count : 0)));
  return plus(x, -(count > 0 ? of.presence : 0.0f));
}

// Rounded to nearest, ties to even; a NaN stays one.
FASTSAMPLE_FN uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
FASTSAMPLE_FN uint16_t to_float16(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u, size = bits_of(x) & 0x7fffffffu;
  uint32_t half;
  if (size > 0x7f800000u) {
    half = 0x7e00u;
  } else if (size >= 0x477ff000u) {  // 65,520: halfway to what would be the next number
    half = 0x7c00u;
  } else if (size < 0x38800000u) {  // below 2^-14 the numbers are 2^-24 apart, as those from 0.5 to 1 are
    half = bits_of(plus(of_bits(size), 0.5f)) - 0x3f000000u;
  } else {
    half = (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

// The bits of a row's word w that are of the vocabulary.
FASTSAMPLE_FN uint32_t allowed_word(const int32_t* allowed, int64_t w, int64_t vocab) {
  const int64_t left = vocab - w * kWord;
  const auto word = static_cast<uint32_t>(allowed[w]);
  return left >= kWord ? word : word & ((1u << left) - 1u);
}

FASTSAMPLE_FN bool is_allowed(const int32_t* allowed, int64_t token) {
  return !allowed || (static_cast<uint32_t>(allowed[token / kWord]) >> (token % kWord) & 1u);
}

}  // namespace fastsample
