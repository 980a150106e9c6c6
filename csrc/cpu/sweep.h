// One more look at the chunks that reach a bracket [low, high) of logits: the exact weight above it, the tokens inside.
#pragma once

#include "chunks.h"
#include "order.h"

namespace fastsample::FASTSAMPLE_ISA {

struct Bracket {
  float low, high;  // low <= x < high
};

struct Swept {
  int64_t above = 0;                // tokens >= high
  int64_t inside = 0;               // tokens in the bracket; the first kMaxCandidates are in scratch
  float smallest = 0, largest = 0;  // of those inside, if any
  bool holds_all() const { return inside <= kMaxCandidates; }
};

// Appends the tokens inside a bracket to the candidates.
class Collector {
 public:
  Collector(const Cut& limit, const Scratch& scratch) : limit_(limit), s_(scratch) {}

  // The lanes `inside` of x, whose first is token `base`; ties at the limit count up to its index.
  void take(F x, Mask inside, int64_t base) {
    if (base + kLanes > limit_.index) {
      const int64_t kept = limit_.index + 1 - base;
      const Mask is_kept = at_least(set(static_cast<float>(kept < 0 ? 0 : kept)), ramp());
      inside = without(inside, without(equal(x, set(limit_.value)), is_kept));
    }
    if (count_ <= kMaxCandidates) {
      pack(s_.candidate + count_, inside, x);
      pack(s_.candidate_index + count_, inside, add(iota(), set(static_cast<int32_t>(base))));
    }
    count_ += count(inside);
    smallest_ = smaller(pick(inside, x, smallest_), smallest_);
    largest_ = larger(pick(inside, x, largest_), largest_);
  }

  void report(Swept* found) const {
    found->inside = count_;
    found->smallest = -max_of(set(0.0f) - smallest_);
    found->largest = max_of(largest_);
  }

 private:
  const Cut limit_;
  const Scratch s_;
  int64_t count_ = 0;
  F smallest_ = set(__builtin_inff()), largest_ = set(-__builtin_inff());
};

// Leaves in s.sum the weight above the bracket, chunk by chunk, and in s.candidate the tokens inside it that `limit`
// keeps. `bracket.high` must be above limit.value. Reads the chunks whose maximum reaches the bracket.
template <Dtype D>
static Swept sweep(const Tokens<D>& row, float factor, Bracket bracket, const Cut& limit, const Scratch& s) {
  const F low = set(bracket.low), high = set(bracket.high), c = set(factor);
  Collector candidates(limit, s);
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
        if (any(inside)) candidates.take(x, inside, start + v * kLanes);
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
      if (any(inside)) candidates.take(x, inside, start + v * kLanes);
    }
    s.sum[j] = exact_sum(rounded, wrapped);
  }
  candidates.report(&found);
  return found;
}

}  // namespace fastsample::FASTSAMPLE_ISA
