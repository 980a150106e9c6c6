// One more look at the chunks that reach a bracket [low, high) of logits: the exact weight above it, the tokens inside.
#pragma once

#include "chunks.h"
#include "order.h"

namespace fastsample::FASTSAMPLE_ISA {

struct Bracket {
  float low, high;  // low <= x < high
};

struct Swept {
  int64_t above = 0;   // tokens >= high
  int64_t inside = 0;  // tokens in the bracket; the first kMaxCandidates are in scratch
  float smallest = __builtin_inff(), largest = -__builtin_inff();  // of those inside
  bool holds_all() const { return inside <= kMaxCandidates; }
};

// The sum of weights of the tokens >= high of one chunk; counts them.
template <Dtype D>
static inline double weight_above(const typename Row<D>::Raw* chunk, float top, float factor, float high,
                                  int64_t* above) {
  const F c = set(factor), from = set(top), limit = set(high);
  F rounded = set(0.0f);
  I wrapped = set(0);
  int kept = 0;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const F x = Tokens<D>::at(chunk, v);
    const Mask is_above = at_least(x, limit);
    const F w = only(is_above, weigh(x, from, c));
    rounded = rounded + w;
    wrapped = add(wrapped, truncate(w));
    kept += count(is_above);
  }
  *above += kept;
  return exact_sum(rounded, wrapped);
}

// Leaves in s.sum the weight above the bracket, chunk by chunk, and in s.candidate the tokens inside it that `limit`
// keeps. `bracket.high` must be above limit.value. Reads the chunks whose maximum reaches the bracket.
template <Dtype D>
static Swept sweep(const Tokens<D>& row, float factor, Bracket bracket, const Cut& limit, const Scratch& s) {
  const F low = set(bracket.low), high = set(bracket.high), tie = set(limit.value);
  F smallest = set(__builtin_inff()), largest = set(-__builtin_inff());
  Swept found;
  for (int64_t j = 0; j < row.chunks; ++j) {
    s.sum[j] = 0;
    if (!(s.top[j] >= bracket.low)) continue;
    const auto* chunk = row.chunk(j);
    if (s.top[j] >= bracket.high) {
      s.sum[j] = weight_above<D>(chunk, s.top[j], factor, bracket.high, &found.above);
    }
    for (int v = 0; v < kVectors && bracket.low < bracket.high; ++v) {
      const F x = Tokens<D>::at(chunk, v);
      Mask inside = without(at_least(x, low), at_least(x, high));
      if (!any(inside)) continue;
      const int64_t base = j * kChunk + v * kLanes;
      if (base + kLanes > limit.index) {  // ties at the limit are kept up to its index
        const int64_t kept = limit.index + 1 - base;
        const Mask is_kept = at_least(set(static_cast<float>(kept < 0 ? 0 : kept)), ramp());
        inside = without(inside, without(equal(x, tie), is_kept));
      }
      if (found.inside <= kMaxCandidates) {
        pack(s.candidate + found.inside, inside, x);
        pack(s.candidate_index + found.inside, inside, add(iota(), set(static_cast<int32_t>(base))));
      }
      found.inside += count(inside);
      smallest = smaller(pick(inside, x, smallest), smallest);
      largest = larger(pick(inside, x, largest), largest);
    }
  }
  found.largest = max_of(largest);
  found.smallest = -max_of(set(0.0f) - smallest);
  return found;
}

}  // namespace fastsample::FASTSAMPLE_ISA
