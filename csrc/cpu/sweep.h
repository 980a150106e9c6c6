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

// Appends the tokens of `inside`, 16 lanes at most, to the candidates; ties at the limit count up to its index.
static inline void collect(F x, Mask inside, int64_t base, const Cut& limit, const Scratch& s, Swept* found) {
  if (base + kLanes > limit.index) {
    const int64_t kept = limit.index + 1 - base;
    const Mask is_kept = at_least(set(static_cast<float>(kept < 0 ? 0 : kept)), ramp());
    inside = without(inside, without(equal(x, set(limit.value)), is_kept));
    if (!any(inside)) return;
  }
  if (found->inside <= kMaxCandidates) {
    pack(s.candidate + found->inside, inside, x);
    pack(s.candidate_index + found->inside, inside, add(iota(), set(static_cast<int32_t>(base))));
  }
  found->inside += count(inside);
  const float smallest = -max_of(set(0.0f) - pick(inside, x, set(__builtin_inff())));
  const float largest = max_of(pick(inside, x, set(-__builtin_inff())));
  found->smallest = smallest < found->smallest ? smallest : found->smallest;
  found->largest = largest > found->largest ? largest : found->largest;
}

// Leaves in s.sum the weight above the bracket, chunk by chunk, and in s.candidate the tokens inside it that `limit`
// keeps. `bracket.high` must be above limit.value. Reads the chunks whose maximum reaches the bracket.
template <Dtype D>
static Swept sweep(const Tokens<D>& row, float factor, Bracket bracket, const Cut& limit, const Scratch& s) {
  const F low = set(bracket.low), high = set(bracket.high), c = set(factor);
  Swept found;
  for (int64_t j = 0; j < row.chunks; ++j) {
    s.sum[j] = 0;
    if (!(s.top[j] >= bracket.low)) continue;
    const auto* chunk = row.chunk(j);
    const int64_t start = j * kChunk;
    if (!(s.top[j] >= bracket.high)) {
      for (int v = 0; v < kVectors; ++v) {
        const F x = Tokens<D>::at(chunk, v);
        const Mask inside = at_least(x, low);
        if (any(inside)) collect(x, inside, start + v * kLanes, limit, s, &found);
      }
      continue;
    }
    const F from = set(s.top[j]);
    F rounded = set(0.0f);
    I wrapped = set(0);
    for (int v = 0; v < kVectors; ++v) {
      const F x = Tokens<D>::at(chunk, v);
      const Mask is_above = at_least(x, high), inside = without(at_least(x, low), is_above);
      if (any(is_above)) {
        const F w = only(is_above, weigh(x, from, c));
        rounded = rounded + w;
        wrapped = add(wrapped, truncate(w));
        found.above += count(is_above);
      }
      if (any(inside)) collect(x, inside, start + v * kLanes, limit, s, &found);
    }
    s.sum[j] = exact_sum(rounded, wrapped);
  }
  return found;
}

}  // namespace fastsample::FASTSAMPLE_ISA
