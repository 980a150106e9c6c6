// The chunks that can hold a kept token, where they are few: a threshold on chunk maxima, and one gather of the tokens
// that reach it.
#pragma once

#include "candidates.cuh"

namespace fastsample::cuda {

constexpr int kMaxList = kThreads;  // chunks that are read again: a thread each when one is drawn
constexpr int kMaxCount = 384;      // of top_k: as many candidates and some more fit

template <Dtype D>
class Shortlist {
 public:
  __device__ Shortlist(const Row<D>& row, Desk& desk, float lowest_top)
      : row_(row), desk_(desk), candidates_(row, desk), lowest_top_(lowest_top) {}

  // Finds the cut of all filters; false where the row is not of this kind, and nothing was changed then.
  // `desk.list.tops` hold the maxima; `total` is the row's mass where it is needed, and `desk.list.masses` the chunks'.
  __device__ __forceinline__ bool apply(int top_k, float top_p, float min_p, int64_t total, Edge* cut, int64_t* kept) {
    const bool by_count = top_k > 0 && top_k < row_.vocab, by_mass = !by_count && top_p < 1;
    if (row_.chunks > kMaxTops || (by_count && top_k > kMaxCount)) return false;
    const int64_t target = by_mass ? top_p_target(total, top_p) : 0;
    const float threshold = min_p > 0 ? min_p_threshold(min_p) : 0;
    float from = by_count || by_mass ? search(by_count, by_count ? top_k : target, total)
                                     : row_.top + quotient_of(threshold - 0.01f, row_.factor);
    if (!(from >= row_.lowest())) from = row_.lowest();
    int n = 0;
#pragma unroll 1
    for (int tries = 0;; ++tries) {
      if (!gather(from)) return false;
      n = desk_.n;
      candidates_.template weigh<false>(n);
      if (by_count ? n >= top_k : !by_mass) break;
      if (by_mass) {
        int64_t held = 0;
        for (int c = thread_of(); c < n; c += kThreads) held += desk_.candidates[c].adds;
        held = block_sum(held);
        if (held >= target) break;
        // No token below weighs more than this, and most weigh less: of so many there is no room.
        const float most = times(roughly_pow2(below(from, row_.top, row_.factor)), 0.6f * (1 << kWeightBits));
        if (static_cast<float>(target - held) > static_cast<float>(kCapacity - n) * most) return false;
      }
      from = plus(from, -quotient_of(step_behind(n), row_.factor));
      if (tries == 5 || !(from >= row_.lowest())) return false;
    }
    *cut = {row_.lowest(), INT32_MAX};
    *kept = n;
    Found found;
    int64_t goal = target;
    if (by_count || by_mass) candidates_.rank(n);
    if (by_count) {
      if (!candidates_.pick(n, true, top_k, &found)) return false;
      *cut = {value_of<D>(found.key), index_of(found.key)};
      *kept = top_k;
      goal = top_p_target(found.mass, top_p);
    }
    if (top_p < 1) {
      if (!candidates_.pick(n, false, goal, &found)) return false;
      *cut = {value_of<D>(found.key), index_of(found.key)};
      *kept = found.rank + 1;
    }
    return min_p <= 0 || keep_near(n, by_count || by_mass, from, threshold, cut, kept);
  }

  // Slots of the list, in the order of the row, and what is kept of each.
  __device__ __forceinline__ int slots() const { return desk_.list.n; }
  __device__ __forceinline__ int chunk(int slot) const { return desk_.list.chunk[slot]; }
  __device__ __forceinline__ int64_t kept_weight(int slot, Edge cut) const {
    const Region region = desk_.list.region[slot];
    int64_t sum = 0;
    for (int c = region.first; c < region.first + region.count; ++c) {
      const int64_t key = desk_.candidates[c].key;
      if (cut.reaches(value_of<D>(key), index_of(key))) sum += desk_.weight[c];
    }
    return sum;
  }

 private:
  static __device__ float quotient_of(float a, float b) { return a / b; }

  // By how many powers of two the smallest weight that is looked at goes down where `n` candidates were too few: far
  // where they cost little, so that there are not many turns.
  static __device__ float step_behind(int n) { return n < 12 ? 4 : n < 32 ? 3 : n < 192 ? 2 : 1; }

  // A value that at least `goal` maxima reach, or chunks of nearly that mass, and not many more: from the parts of a
  // histogram of the maxima, and where they are crowded from the parts of a part.
  __device__ __forceinline__ float search(bool by_count, int64_t goal, int64_t total) {
    List& list = desk_.list;
    float low = lowest_top_, high = row_.top;
    const float no_mass = plus(row_.top, -quotient_of(64.0f, row_.factor));
    const float unit = 0x1p30f / static_cast<float>(total);
    if (!by_count && no_mass > low) low = no_mass;
    // Some of a chunk's mass is of tokens below that value. Each is taken to have as much of it as the chunks have on
    // average, whose tokens below it are to weigh 0.6 of what may be missing: a little less, so that as a rule the
    // first value is low enough.
    auto enough = static_cast<unsigned>(goal);
    unsigned each = 0, above = 0;
    if (!by_count) {
      const float missing = 0.6f * static_cast<float>(total - goal) * unit;
      each = static_cast<unsigned>(missing / static_cast<float>(row_.chunks));
      enough = static_cast<unsigned>(fmaxf(0x1p30f - missing, 1.0f));
    }
#pragma unroll 1
    for (int round = 0; round < 3; ++round) {
      const float width = times(plus(high, -low), 1.0f / kParts), per = quotient_of(1, width);
      if (round) {
        sync_block();  // the parts may still be read
        list.count_in[thread_of()] = list.mass_in[thread_of()] = 0;
        sync_block();
      }
      for (int j = thread_of(); j < row_.chunks; j += kThreads) {
        const float top = list.tops[j], at = times(plus(high, -top), per);
        if (!(top >= low && (round == 0 || top < high))) continue;
        const int part = at < kParts - 1 ? static_cast<int>(at) : kParts - 1;
        atomicAdd(&list.count_in[part], 1u);
        if (!by_count) atomicAdd(&list.mass_in[part], static_cast<unsigned>(times(list.masses[j], unit)));
      }
      sync_block();
      unsigned mine = list.count_in[thread_of()];
      if (!by_count) {
        const unsigned mass = list.mass_in[thread_of()], below = mine * each;
        mine = mass > below ? mass - below : 0;
      }
      const Scanned<unsigned> place = scan_at<1>(mine);
      const unsigned before = above + place.before;
      const bool is_last = thread_of() == kParts - 1 && above + place.total < enough;
      if ((before < enough && enough <= before + mine) || is_last) {
        list.part = thread_of(), list.in_part = static_cast<int>(list.count_in[thread_of()]), list.above_part = before;
      }
      sync_block();
      const int part = list.part;
      if (part < kParts - 1) low = plus(high, -times(width, static_cast<float>(part + 1)));
      if (list.in_part <= kCrowded) break;
      high = plus(high, -times(width, static_cast<float>(part)));
      above = list.above_part;
    }
    return by_count ? low : low - quotient_of(1, row_.factor);
  }

  // Lists the chunks whose maximum reaches `from`, and collects their tokens that do.
  __device__ __forceinline__ bool gather(float from) {
    List& list = desk_.list;
    const int each = (row_.chunks + kThreads - 1) / kThreads, first = thread_of() * each;
    int mine = 0;
    for (int j = first; j < first + each && j < row_.chunks; ++j) mine += list.tops[j] >= from;
    const Scanned<int> place = scan_at<7>(mine);
    if (place.total > kMaxList) return false;
    int at = place.before;
    for (int j = first; j < first + each && j < row_.chunks; ++j) {
      if (list.tops[j] >= from) list.chunk[at++] = j;
    }
    if (thread_of() == 0) list.n = place.total, desk_.n = 0;
    sync_block();
    const int n = place.total;
    const bool is_first = lane_of() == 0;
#pragma unroll 1
    for (int slot = warp_of(); slot < n; slot += kAhead * kWarps) {
      Eight<D> eight[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (slot + u * kWarps < n) eight[u].read(row_, list.chunk[slot + u * kWarps]);
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int s = slot + u * kWarps;
        if (s >= n) break;
        float x[kEight];
        eight[u].unpack(x);
        unsigned inside = 0;
#pragma unroll
        for (int e = 0; e < kEight; ++e) inside |= x[e] >= from ? 1u << e : 0;
        const Region region = candidates_.place(x, inside, list.chunk[s]);
        if (is_first) list.region[s] = region;
      }
    }
    sync_block();
    return desk_.n <= kCapacity;
  }

  // min_p is a bound on the logit, so what it keeps is a prefix of the order too. `is_bounded`: another filter is on.
  __device__ __forceinline__ bool keep_near(int n, bool is_bounded, float from, float threshold, Edge* cut,
                                            int64_t* kept) {
    int near = 0;
    float lowest = row_.top;
    for (int c = thread_of(); c < n; c += kThreads) {
      const float x = value_of<D>(desk_.candidates[c].key);
      if (below(x, row_.top, row_.factor) < threshold) continue;
      ++near;
      lowest = fminf(lowest, x);
    }
    near = block_sum(near);
    lowest = block_reduce(lowest, Smaller());
    if (is_bounded && near >= *kept) return true;  // the other filter cut higher
    const bool has_more = from > row_.lowest() && below(from, row_.top, row_.factor) >= threshold;
    if (!is_bounded && has_more) return false;  // tokens that are no candidates may be as near
    *cut = {lowest, INT32_MAX};
    *kept = near;
    return true;
  }

  static constexpr int kAhead = 4;     // chunks that a warp waits for together
  static constexpr int kCrowded = 24;  // chunks of a part that are looked at more closely

  const Row<D>& row_;
  Desk& desk_;
  Candidates<D> candidates_;
  float lowest_top_;  // of the finite maxima
};

}  // namespace fastsample::cuda
