// Between which ranks a filter's cut lies, from a histogram: of a sample of the row, or of what a sweep finds between
// two ranks. It decides nothing: what it finds is settled by integers.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

constexpr int kBinBits = 11, kBins = 1 << kBinBits;
constexpr int kOwn = kBins / kThreads;  // a thread's neighbouring bins
constexpr int kListed = 5120;           // tokens of a crowd that a list has room for
constexpr int kSampled = 64;            // chunks of the sample
constexpr float kMost = 0x1p17f;        // that one of their tokens may add to a bin: 32 bits hold the sum

struct alignas(16) Bins {
  unsigned in[kBins];  // the higher a logit, the lower its bin
  int first, last;
};

// Tokens between two ranks.
struct Crowd {
  Bins bins;
  int listed[kListed];
};

struct Bracket {
  int32_t low, high;  // ranks, both inside
  __device__ __forceinline__ bool is_empty() const { return low > high; }
  __device__ __forceinline__ uint32_t width() const { return static_cast<uint32_t>(high) - static_cast<uint32_t>(low); }
  // Bins are equal parts of it: of how many ranks, as a power of two.
  __device__ __forceinline__ int shift() const {
    const int bits = 32 - __clz(static_cast<int>(width()));
    return bits > kBinBits ? bits - kBinBits : 0;
  }
};

// What a filter goes by, number of tokens or mass, and how much of it is to be kept.
struct Measure {
  bool by_count;
  int64_t goal, total;  // `total` of the mass alone
};

// What a token adds to its bin: 1, or its mass in units of which 2^30 are `scale`.
template <Dtype D>
static __device__ __forceinline__ float amount_of(const Row<D>& row, float x, bool by_count, float scale) {
  // Roughly: the instruction is off by 2^-22 at most.
  return by_count ? 1.0f : times(roughly_pow2(below(x, row.top, row.factor)), scale);
}

static __device__ __forceinline__ void put(Bins& bins, int bin, float amount) {
  atomicAdd(&bins.in[bin], static_cast<unsigned>(plus(amount, 0.5f)));
}
static __device__ __forceinline__ void clear(Bins& bins) {
  for (int b = thread_of(); b < kBins; b += kThreads) bins.in[b] = 0;
  if (thread_of() == 0) bins.first = bins.last = kBins;
}

// Leaves in bins.first the first bin with which the sum of all up to it may reach `wanted`, or what is missing from
// the sum of all may be `wanted`, and in bins.last the first with which it surely is; kBins where there is none.
// slack(bin, sum, rest): by how much the sum may be off. Bins are those of all blocks, and what is found the same.
template <class Slack>
static __device__ __forceinline__ void choose(const Team& team, Bins& bins, float wanted, bool is_missing,
                                              Slack slack) {
  unsigned own[kOwn] = {}, sum = 0;
#pragma unroll 1
  for (int n = 0; n < team.size; ++n) {
    const unsigned* const in = team.of(bins.in, n) + thread_of() * kOwn;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) own[k] += in[k], sum += in[k];
  }
  const Scanned<unsigned> place = block_scan(sum);
  const float total = static_cast<float>(place.total);
  if (is_missing) wanted = total - wanted;
  unsigned through = place.before;
  int first = kBins, last = kBins;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    through += own[k];
    const float reached = static_cast<float>(through), off = slack(thread_of() * kOwn + k, reached, total - reached);
    if (first == kBins && reached + off >= wanted) first = thread_of() * kOwn + k;
    if (last == kBins && reached - off >= wanted) last = thread_of() * kOwn + k;
  }
  if (first < kBins) atomicMin(&bins.first, first);
  if (last < kBins) atomicMin(&bins.last, last);
  sync_block();
}

// Between which ranks the cut should lie, as chunks spread over the row have it: a range of values from the row's
// maximum down, of `width`, is looked at closely, and nothing below `floor`.
template <Dtype D>
static __device__ __forceinline__ Bracket sampled(const Team& team, const Row<D>& row, Bins& bins,
                                                  const Measure& measure, float floor, float width) {
  const int n = row.chunks / 8 < kSampled ? row.chunks / 8 + 1 : kSampled;
  const float share = static_cast<float>(n) / static_cast<float>(row.chunks);
  const float per = static_cast<float>(kBins - 1) / width;
  // By mass the sample stands for what is below the cut: there the chunks are alike.
  const bool by_count = measure.by_count;
  const float missing = measure.total > measure.goal ? static_cast<float>(measure.total - measure.goal) : 1.0f;
  const float wanted = by_count ? static_cast<float>(measure.goal) * share : 16 * kMost;
  const float scale = wanted / (missing * share) * 0x1p30f;
  sync_block();  // the desk may still be read
  clear(bins);
  sync_block();
#pragma unroll 1
  for (int i = team.rank * kWarps + warp_of(); i < n; i += team.size * kWarps) {
    Eight<D> eight;
    eight.read(row, i * row.chunks / n);
    float x[kEight];
    eight.unpack(x);
#pragma unroll
    for (int e = 0; e < kEight; ++e) {
      const float at = times(plus(row.top, -x[e]), per);
      const int bin = at < kBins - 1 ? static_cast<int>(at) : kBins - 1;  // also where it is a NaN: 0 x inf
      const float amount = fminf(amount_of(row, x[e], by_count, scale), kMost);
      if (x[e] >= floor) put(bins, bin, amount);
    }
  }
  team.sync();
  choose(team, bins, wanted, !by_count, [&](int bin, float sum, float rest) {
    if (by_count) return 2 * sqrtf(sum) + 1;
    const float heaviest = fminf(amount_of(row, row.top - static_cast<float>(bin) / per, false, scale), kMost);
    return 2 * sqrtf(heaviest * fmaxf(rest, wanted));  // a sum of so many tokens of that weight
  });
  const int32_t lowest = rank_of<D>(floor), highest = rank_of<D>(row.top);
  Bracket found = {lowest, highest};
  if (bins.first < kBins) found.high = rank_of<D>(row.top - static_cast<float>(bins.first) / per);
  if (bins.last < kBins - 1) {
    const float low = row.top - static_cast<float>(bins.last + 1) / per;
    found.low = rank_of<D>(low);
    if (at_rank<D>(found.low) < low) found.low += 1 + (found.low == -2);  // there is no rank -1
  }
  found.high = Smaller()(highest, Larger()(lowest, found.high));
  found.low = Smaller()(found.high, Larger()(lowest, found.low));
  return found;
}

}  // namespace fastsample::cuda
