// A histogram of a row between two ranks: where a filter's cut lies, to a bin or two. It decides nothing: what it finds
// is settled by integers.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

constexpr int kBins = 2048;
constexpr int kOwn = kBins / kThreads;  // a thread's neighbouring bins

struct Bins {
  unsigned units[kBins], count[kBins];  // mass, in units of which all of it has 2^31; tokens
  int32_t low, high;
  alignas(16) int first, last, first_filled,
      last_filled, n_before, n_through, n_all;  // no load of four takes `low` too
};

struct Bracket {
  int32_t low, high;  // ranks, both inside
};

// Which bin a logit of [low, high] has; the higher the logit, the lower its bin. In equal parts of the range of values,
// with everything below `top - width` in the last; or in equal parts of the range of ranks.
template <Dtype D>
struct BinOf {
  bool is_linear;
  float top, per;
  int32_t high;
  int shift;
  __device__ __forceinline__ int operator()(float x) const {
    if (is_linear) {
      const float at = times(plus(top, -x), per);
      return at < kBins - 1 ? static_cast<int>(at) : kBins - 1;  // also where it is a NaN: 0 x inf
    }
    return static_cast<int>((static_cast<uint32_t>(high) - static_cast<uint32_t>(rank_of<D>(x))) >> shift);
  }
};

// Calls `each(eight, j, top)` with every chunk whose maximum reaches `from`, a warp a chunk, the next one on its way.
template <Dtype D, class Each, class Other>
static __device__ __forceinline__ void sweep_chunks(const Row<D>& row, float from, Each each, Other other) {
#pragma unroll 1
  for (int first = 0; first < row.chunks; first += kThreads) {
    const int mine = first + lane_of() * kWarps + warp_of();  // neighbours go to different warps
    const bool is_one = mine < row.chunks;
    const float top = is_one ? row.tops[mine] : kNever;
    const bool reaches = is_one && top >= from;
    if (is_one && !reaches) other(mine);
    unsigned left = __ballot_sync(kAll, reaches);
    if (!left) continue;
    const auto chunk = [&](int lane) { return first + lane * kWarps + warp_of(); };
    int lane = __ffs(static_cast<int>(left)) - 1;
    Eight<D> eight;
    eight.read(row, chunk(lane));
#pragma unroll 1
    while (true) {
      left &= left - 1;
      const int next = __ffs(static_cast<int>(left)) - 1;
      Eight<D> ahead = eight;
      if (left) ahead.read(row, chunk(next));
      each(eight, chunk(lane), __shfl_sync(kAll, top, lane));
      if (!left) break;
      eight = ahead;
      lane = next;
    }
  }
}

template <Dtype D>
class Histogram {
 public:
  __device__ Histogram(const Row<D>& row, Bins& bins) : row_(row), bins_(bins) {}

  // The ranks of [from.low, from.high] between which the measure of the row reaches `goal`, with the number of tokens
  // there in *inside; `total` is the row's mass. *inside is -1 where there are fewer tokens than `goal`.
  __device__ __forceinline__ Bracket operator()(Bracket from, bool is_linear, float width, bool by_count, int64_t goal,
                                                int64_t total, int* inside) {
    BinOf<D> bin_of = {is_linear, row_.top, static_cast<float>(kBins - 1) / width, from.high, 0};
    const uint32_t range = static_cast<uint32_t>(from.high) - static_cast<uint32_t>(from.low);
    while (range >> bin_of.shift >= kBins) ++bin_of.shift;
    const float unit = 0x1p31f / static_cast<float>(total > 0 ? total : 1);
    sync_block();  // the desk may still be read
    for (int b = thread_of(); b < kBins; b += kThreads) bins_.units[b] = bins_.count[b] = 0;
    if (thread_of() == 0) bins_.first = bins_.last = kBins - 1, bins_.first_filled = kBins - 1, bins_.last_filled = 0;
    sync_block();
    int n_above = 0;
    uint64_t above = 0;
    if (by_count) {
      fill<true, true>(from, bin_of, unit, &n_above, &above);
    } else if (is_linear) {
      fill<false, false>(from, bin_of, unit, &n_above, &above);
    } else {
      fill<false, true>(from, bin_of, unit, &n_above, &above);
    }
    n_above = block_sum(n_above);
    if (!by_count) above = block_sum(above);
    choose(by_count, goal, unit, n_above, above);
    *inside = by_count && bins_.n_all < goal ? -1 : bins_.n_through - bins_.n_before;
    if (warp_of() == 0) edges(from, bin_of);
    sync_block();
    return {bins_.low, bins_.high};
  }

 private:
  // One sweep. `WithAbove`: tokens above `from.high`, of which the first histogram has none.
  template <bool ByCount, bool WithAbove>
  __device__ __forceinline__ void fill(Bracket from, const BinOf<D>& bin_of, float unit, int* n_above,
                                       uint64_t* above) {
    const float a = at_rank<D>(from.low), b = at_rank<D>(from.high);
    sweep_chunks(
        row_, a,
        [&](const Eight<D>& eight, int, float top) {
          float x[kEight];
          eight.unpack(x);
          const float z_top = below(top, row_.top, row_.factor);
          const float scale = scaled_pow2<kWeightBits>(z_top > kLowestS ? z_top : kLowestS) * unit;
#pragma unroll
          for (int e = 0; e < kEight; ++e) {
            uint32_t u = 0;
            if (!ByCount) {
              const float z = fmaxf(below(x[e], top, row_.factor), kLowestZ);
              // Roughly: the instruction is off by 2^-22 at most, and `choose` allows for 2^-20.
              u = static_cast<uint32_t>(fused(roughly_pow2(z), scale, 0.5f));
            }
            if (WithAbove && x[e] > b) {
              ++*n_above;
              *above += u;
            } else if (x[e] >= a) {
              const int at = bin_of(x[e]);
              atomicAdd(&bins_.count[at], 1u);
              if (!ByCount) atomicAdd(&bins_.units[at], u);
            }
          }
        },
        [](int) {});
  }

  // The first bin that may reach the goal and the first that surely does: a token's units are rounded, its weight and
  // the mass of its chunk rounded down.
  __device__ __forceinline__ void choose(bool by_count, int64_t goal, float unit, int n_above, uint64_t above) {
    const int first = thread_of() * kOwn;
    int count = 0;
    uint64_t units = 0;
    for (int b = first; b < first + kOwn; ++b) {
      count += static_cast<int>(bins_.count[b]);
      units += bins_.units[b];
      if (bins_.count[b]) atomicMax(&bins_.last_filled, b), atomicMin(&bins_.first_filled, b);
    }
    const int count_before = block_scan(count).before + n_above;
    const uint64_t before = by_count ? 0 : block_scan(units).before + above;
    const double wanted = by_count ? static_cast<double>(goal) : static_cast<double>(goal) * static_cast<double>(unit);
    const double chunks = row_.chunks + 1.0, each = 0.5 + static_cast<double>(unit);
    for (int pass = 0; pass < 2; ++pass) {
      int n = count_before;
      uint64_t sum = before;
      for (int b = first; b < first + kOwn; ++b) {
        if (pass) {
          if (b == bins_.first) bins_.n_before = n;
          n += static_cast<int>(bins_.count[b]);
          if (b == bins_.last) bins_.n_through = n;
          if (b == kBins - 1) bins_.n_all = n;
          continue;
        }
        n += static_cast<int>(bins_.count[b]);
        sum += bins_.units[b];
        const double known = by_count ? static_cast<double>(n) : static_cast<double>(sum);
        const double slack = by_count ? 0.0 : known * 0x1p-20 + n * each + chunks * static_cast<double>(unit) + 1;
        if (known + slack >= wanted) atomicMin(&bins_.first, b);
        if (known - slack >= wanted) atomicMin(&bins_.last, b);
      }
      sync_block();
      if (!pass && thread_of() == 0) {  // bins that hold nothing at either end
        if (bins_.last > bins_.last_filled) bins_.last = bins_.last_filled;
        if (bins_.first < bins_.first_filled) bins_.first = bins_.first_filled;
        if (bins_.first > bins_.last) bins_.first = bins_.last;
      }
      sync_block();
    }
  }

  // The ranks of the chosen bins, exactly: of lane 0 the highest, of lane 1 the lowest.
  __device__ __forceinline__ void edges(Bracket from, const BinOf<D>& bin_of) {
    if (lane_of() > 1) return;
    // The highest rank whose bin is at least `bin`, found between `a`, which has such a bin, and `b`, which has not.
    const int bin = lane_of() ? bins_.last + 1 : bins_.first;
    int64_t a = static_cast<int64_t>(from.low) - 1, b = static_cast<int64_t>(from.high) + 1;
    while (b - a > 1) {
      const int64_t middle = a + (b - a) / 2;
      (bin_of(at_rank<D>(static_cast<int32_t>(middle))) >= bin ? a : b) = middle;
    }
    if (lane_of()) {
      bins_.low = static_cast<int32_t>(b);
    } else {
      bins_.high = static_cast<int32_t>(a);
    }
  }

  const Row<D>& row_;
  Bins& bins_;
};

}  // namespace fastsample::cuda
