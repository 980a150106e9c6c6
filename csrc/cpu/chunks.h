// Stage 1: one streaming read of the row leaves a maximum and an integer sum of weights for every chunk of 256 tokens.
//
// Included once per instruction set, behind its vec_*.h; everything here lives in that instruction set's namespace.
// Reads V logits once, writes 12 bytes per 256 of them (24 with statistics).
#pragma once

#include "../args.h"
#include "../contract.h"
#include "scratch.h"

namespace fastsample::FASTSAMPLE_ISA {

constexpr int kVectors = kChunk / kLanes;

// A row of logits in its own dtype. The last chunk is padded with -inf, so that every chunk has 256 tokens.
template <Dtype D>
struct Row;

template <>
struct Row<Dtype::kFloat32> {
  using Raw = float;
  static constexpr Raw kForbidden = -__builtin_inff();
  static F widened(const Raw* p) { return widen(p); }
  static void pair(const Raw* p, F* a, F* b) { *a = widen(p), *b = widen(p + kLanes); }
};
template <>
struct Row<Dtype::kBfloat16> {
  using Raw = uint16_t;
  static constexpr Raw kForbidden = 0xff80;
  static F widened(const Raw* p) { return widen_bf16(p); }
  static void pair(const Raw* p, F* a, F* b) { widen_bf16_pair(p, a, b); }
};
template <>
struct Row<Dtype::kFloat16> {
  using Raw = uint16_t;
  static constexpr Raw kForbidden = 0xfc00;
  static F widened(const Raw* p) { return widen_f16(p); }
  static void pair(const Raw* p, F* a, F* b) { *a = widen_f16(p), *b = widen_f16(p + kLanes); }
};

// Without kCanBeEdited it is the row as it was given: what reads all of it compiles for both, and pays for neither.
template <Dtype D, bool kCanBeEdited = true>
struct Tokens {
  using Raw = typename Row<D>::Raw;
  const Raw* logits;
  int64_t vocab;
  int64_t chunks;
  const void* const* edited;  // [chunks], see Patches; null: none is
  alignas(64) Raw last[kChunk];

  Tokens(const void* row, int64_t vocab_, const Patches& patches)
      : logits(static_cast<const Raw*>(row)), vocab(vocab_), edited(patches.at) {
    chunks = (vocab + kChunk - 1) / kChunk;
    const int64_t start = (chunks - 1) * kChunk;
    if (vocab == chunks * kChunk) return;
    for (int64_t i = 0; i < kChunk; ++i) last[i] = start + i < vocab ? logits[start + i] : Row<D>::kForbidden;
  }
  const Raw* chunk(int64_t j) const {
    if (kCanBeEdited && edited && edited[j]) return static_cast<const Raw*>(edited[j]);
    return (j + 1) * kChunk <= vocab ? logits + j * kChunk : last;
  }
  int64_t size(int64_t j) const { return (j + 1) * kChunk <= vocab ? kChunk : vocab - j * kChunk; }
  static F at(const Raw* chunk, int v) { return Row<D>::widened(chunk + v * kLanes); }
  // Vectors v and v + 1, their tokens in any order: enough for maxima and sums.
  static void pair(const Raw* chunk, int v, F* a, F* b) { Row<D>::pair(chunk + v * kLanes, a, b); }
};

// 2^f times k, a power of two: scaling the coefficients by it changes no rounding.
static inline F polynomial(F f, float k = 1) {
  F p = fused(set(kA5 * k), f, set(kA4 * k));
  p = fused(p, f, set(kA3 * k));
  p = fused(p, f, set(kA2 * k));
  p = fused(p, f, set(kA1 * k));
  return fused(p, f, set(k));
}

static inline F weights_as_floats(F z) {
  const F r = nearest(z);
  return scale(polynomial(z - r, 1 << kWeightBits), r);
}

// The weights of one vector of logits, as floats with a fraction yet to be cut off; a NaN stays one.
static inline F weigh(F x, F from, F c) { return weights_as_floats(larger(set(kLowestZ), (x - from) * c)); }

// The exact sum of up to 256 weights, from a float32 sum of them (off by far less than 2^31) and their sum modulo 2^32.
static inline double exact_sum(F rounded, I wrapped) {
  const int64_t about = static_cast<int64_t>(sum_of(rounded));
  return static_cast<double>(about + static_cast<int32_t>(sum_of(wrapped) - static_cast<uint32_t>(about)));
}

template <Dtype D>
static inline float chunk_maximum(const typename Row<D>::Raw* chunk) {
  F even, odd, a, b;
  Tokens<D>::pair(chunk, 0, &even, &odd);
#pragma GCC unroll 16
  for (int v = 2; v < kVectors; v += 2) {
    Tokens<D>::pair(chunk, v, &a, &b);
    even = larger(a, even);  // in this order a NaN is passed over
    odd = larger(b, odd);
  }
  return max_of(larger(even, odd));
}

// Asks for what is read soon. The processor's own prefetching stops at every page; with this, stage 1 over 151,936
// tokens out of the cache took 23 us instead of 29 (Zen 5, one thread; 1, 2, 4 and 8 KB were tried), as long as in the
// cache.
template <class Raw>
static inline void fetch_ahead(const Raw* chunk) {
  constexpr int kAhead = 8192, kLine = 64;
  const char* at = reinterpret_cast<const char*>(chunk) + kAhead;
  for (int i = 0; i < static_cast<int>(kChunk * sizeof(Raw)); i += kLine) __builtin_prefetch(at + i);
}

// Weighs chunks [first, last); returns whether a NaN or +inf was met (the row is then invalid).
template <bool kWithMoments, Dtype D, bool kCanBeEdited>
static bool weigh_chunks(const Tokens<D, kCanBeEdited>& row, float factor, int64_t first, int64_t last,
                         const Scratch& s) {
  const F c = set(factor);
  bool is_odd = false;
  for (int64_t j = first; j < last; ++j) {
    const auto* chunk = row.chunk(j);
    fetch_ahead(chunk);
    const float top = chunk_maximum<D>(chunk);
    const F from = set(top >= -kLargest ? top : 0.0f);  // a chunk of -inf alone weighs 0 from anywhere
    F rounded = set(0.0f), e_sum = set(0.0f), ed_sum = set(0.0f), down_sum = set(0.0f);
    I wrapped = set(0);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; v += 2) {
      F pair[2];
      Tokens<D>::pair(chunk, v, &pair[0], &pair[1]);
      for (const F x : pair) {
        const F w = weigh(x, from, c);
        rounded = rounded + w;
        wrapped = add(wrapped, truncate(w));
        if constexpr (kWithMoments) {
          const F down = x - from,
                  d = larger(set(-80.0f), down);  // e^-80 of a weight is nothing; -inf would give 0 * inf
          const F e = weights_as_floats(d * set(static_cast<float>(kLog2e)));
          e_sum = e_sum + e;
          ed_sum = fused(e, d, ed_sum);
          down_sum = down_sum + down;
        }
      }
    }
    const float total = sum_of(rounded);
    s.top[j] = top;
    if (!(total >= 0)) {  // a NaN among the logits, or +inf - +inf
      is_odd = true;
      continue;
    }
    s.sum[j] = exact_sum(rounded, wrapped);
    if constexpr (kWithMoments) {
      float down = sum_of(down_sum);
      if (row.size(j) < kChunk) {  // without the padding
        down = 0;
        float lanes[kChunk];
        for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes, Tokens<D>::at(chunk, v) - from);
        for (int64_t i = 0; i < row.size(j); ++i) down += lanes[i];
      }
      s.moments[j] = {sum_of(e_sum), sum_of(ed_sum), down};
    }
  }
  return is_odd;
}

// The maxima alone, for a greedy row.
template <Dtype D, bool kCanBeEdited>
static bool maximize_chunks(const Tokens<D, kCanBeEdited>& row, int64_t first, int64_t last, const Scratch& s) {
  Mask nan = no_lane();
  for (int64_t j = first; j < last; ++j) {
    const auto* chunk = row.chunk(j);
    fetch_ahead(chunk);
    s.top[j] = chunk_maximum<D>(chunk);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v += 2) {
      nan = unite(nan, either_is_nan(Tokens<D>::at(chunk, v), Tokens<D>::at(chunk, v + 1)));
    }
  }
  return any(nan);
}

}  // namespace fastsample::FASTSAMPLE_ISA
