// One reading of a row against two ranks: what lies above them is weighed, what lies between them counted and listed.
#pragma once

#include "candidates.cuh"

namespace fastsample::cuda {

constexpr int kInside = 48;  // row.sums[j] of a sweep: the weights above, and from this bit on a count of ties
constexpr int64_t kWeights = (int64_t{1} << kInside) - 1;

// Calls `each(eight, j, top)` with every chunk whose maximum reaches `from`, a warp a chunk, the next one on its way.
// Of several blocks each takes every size-th chunk.
template <Dtype D, class Each, class Other>
static __device__ __forceinline__ void sweep_chunks(const Team& team, const Row<D>& row, float from, Each each,
                                                    Other other) {
#pragma unroll 1
  for (int first = 0; first * team.size < row.chunks; first += kThreads) {
    // Neighbours go to different blocks and to different warps.
    const auto chunk = [&](int lane) { return (first + lane * kWarps + warp_of()) * team.size + team.rank; };
    const int mine = chunk(lane_of());
    const bool is_one = mine < row.chunks;
    const float top = is_one ? row.tops[mine] : kNever;
    const bool reaches = is_one && top >= from;
    if (is_one && !reaches) other(mine);
    unsigned left = __ballot_sync(kAll, reaches);
    if (!left) continue;
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
class Sweep {
 public:
  __device__ Sweep(const Team& team, const Row<D>& row, Desk& desk) : team_(team), row_(row), desk_(desk) {}

  // Reads the chunks that reach the ranks `at` once. Adds to row.sums the weights above them that are not there yet
  // (all of them, with `IsFirst`), counts the tokens between them, in bins of `unit` too, and lists as many as fit.
  template <bool IsFirst>
  __device__ __forceinline__ void read(Bracket at, bool by_count, float unit) {
    read<IsFirst>(at_rank<D>(at.low), at_rank<D>(at.high), [&](float x, int token) {
      const int n = atomicAdd(&desk_.n, 1);
      if (n < kListed) desk_.crowd.listed[n] = token;
      count(at, x, by_count, unit);
    });
    n_listed_ = desk_.n;
  }

  // What `read` does, with the tokens that it listed last. Those between the ranks `at` become candidates, as many as
  // fit.
  __device__ __forceinline__ void take(Bracket at, bool by_count, float unit) {
    const float low = at_rank<D>(at.low), high = at_rank<D>(at.high), seen = seen_;
    const bool is_one = low == high;
    begin(is_one);
    int n_above = 0;
#pragma unroll 4
    for (int i = thread_of(); i < n_listed_; i += kThreads) {
      const int token = desk_.crowd.listed[i], j = token / kChunk;
      const float x = row_.at(token);
      if (x < low || x > seen) continue;
      if (x > high) {
        add(j, light_weight(x, row_.tops[j], row_.factor));
        ++n_above;
        continue;
      }
      const int n = atomicAdd(&desk_.n, 1);
      if (is_one) {
        add(j, int64_t{1} << kInside);
      } else {
        if (n < kCapacity) desk_.place(n, x, token);
        count(at, x, by_count, unit);
      }
    }
    end(high, false, n_above);
  }

  // Leaves the weights above a value in row.sums, and no counts.
  __device__ __forceinline__ void keep_above(float value) {
    read<true>(value, value, [](float, int) {});
    if (team_.leads()) {
#pragma unroll 1
      for (int j = thread_of(); j < row_.chunks; j += kThreads) row_.sums[j] &= kWeights;
    }
    team_.sync();
  }

  __device__ __forceinline__ void add(int j, int64_t weights) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(row_.sums + j), static_cast<unsigned long long>(weights));
  }

  // Of the last reading, and of all blocks: how many tokens lie above its ranks, and how many between them.
  __device__ int n_above() const { return n_above_; }
  __device__ int n_inside() const { return n_inside_; }
  __device__ bool is_listed() const { return fullest_ <= kListed; }
  // The ranks that tokens between those of `at` have.
  __device__ Bracket of_inside(Bracket at) const {
    const auto high = static_cast<uint32_t>(at.high);
    return {static_cast<int32_t>(high - farthest_), static_cast<int32_t>(high - nearest_)};
  }

 private:
  template <bool IsFirst, class Look>
  __device__ __forceinline__ void read(float low, float high, Look look) {
    const bool is_one = low == high;
    const float seen = seen_;
    begin(is_one);
    int n_above = 0;
    sweep_chunks(
        team_, row_, low,
        [&](const Eight<D>& eight, int j, float top) {
          float x[kEight];
          eight.unpack(x);
          uint64_t sum = 0;
          unsigned above = 0, inside = 0;
#pragma unroll
          for (int e = 0; e < kEight; ++e) {
            if (x[e] > high && (IsFirst || x[e] <= seen)) above |= 1u << e;
            if (x[e] >= low && (IsFirst || x[e] <= seen)) inside |= 1u << e;
          }
          inside &= ~above;
          n_above += __popc(above);
          if (IsFirst) {
            sum = sum_of<kEight>(x, [&](float x) {
              const int32_t w = light_weight(x, top, row_.factor);
              return x > high ? w : 0;
            });
          }
          for (unsigned left = (is_one ? 0 : inside) | (IsFirst ? 0 : above); left; left &= left - 1) {
            const unsigned e = __ffs(static_cast<int>(left)) - 1;
            const float one = eight.pick(e);
            if (!IsFirst && above >> e & 1) {
              sum += static_cast<uint32_t>(light_weight(one, top, row_.factor));
            } else {
              look(one, Eight<D>::place(j) + static_cast<int>(e));
            }
          }
          // A lane's sum has 34 bits: its halves fit into sums of 32.
          const uint32_t lower = __reduce_add_sync(kAll, static_cast<uint32_t>(sum & 0xffffffu)),
                         upper = __reduce_add_sync(kAll, static_cast<uint32_t>(sum >> 24));
          const unsigned ties = is_one ? __reduce_add_sync(kAll, static_cast<unsigned>(__popc(inside))) : 0;
          if (lane_of() == 0) {
            const int64_t before = IsFirst ? 0 : row_.sums[j] & kWeights;
            const int64_t weights = before + static_cast<int64_t>(lower) + (static_cast<int64_t>(upper) << 24);
            row_.sums[j] = weights | static_cast<int64_t>(ties) << kInside;
            if (ties) atomicAdd(&desk_.n, static_cast<int>(ties));
          }
        },
        [&](int j) { row_.sums[j] = IsFirst ? 0 : row_.sums[j] & kWeights; });
    end(high, IsFirst, n_above);
  }

  __device__ __forceinline__ void begin(bool is_one) {
    team_.sync();  // the desk may still be read
    if (thread_of() == 0) desk_.n = desk_.n_above = 0, desk_.nearest = ~0u, desk_.farthest = 0;
    nearest_ = ~0u, farthest_ = 0;
    if (!is_one) clear(desk_.crowd.bins);
    sync_block();
  }
  __device__ __forceinline__ void end(float high, bool is_first, int n_above) {
    n_above = static_cast<int>(__reduce_add_sync(kAll, static_cast<unsigned>(n_above)));
    const unsigned nearest = __reduce_min_sync(kAll, nearest_), farthest = __reduce_max_sync(kAll, farthest_);
    if (lane_of() == 0) {
      atomicAdd(&desk_.n_above, n_above);
      atomicMin(&desk_.nearest, nearest);
      atomicMax(&desk_.farthest, farthest);
    }
    team_.sync();
    if (is_first) n_above_ = 0;
    n_inside_ = fullest_ = 0;
#pragma unroll 1
    for (int n = 0; n < team_.size; ++n) {
      const int inside = *team_.of(&desk_.n, n);
      n_above_ += *team_.of(&desk_.n_above, n);
      n_inside_ += inside;
      nearest_ = Smaller()(nearest_, *team_.of(&desk_.nearest, n));
      farthest_ = Larger()(farthest_, *team_.of(&desk_.farthest, n));
      fullest_ = inside > fullest_ ? inside : fullest_;
    }
    seen_ = high;
  }
  __device__ __forceinline__ void count(Bracket at, float x, bool by_count, float unit) {
    const uint32_t below_high = static_cast<uint32_t>(at.high) - static_cast<uint32_t>(rank_of<D>(x));
    const float amount = amount_of(row_, x, by_count, unit * 0x1p30f);
    nearest_ = Smaller()(nearest_, below_high);
    farthest_ = Larger()(farthest_, below_high);
    put(desk_.crowd.bins, static_cast<int>(below_high >> at.shift()), amount);
  }

  const Team team_;
  const Row<D>& row_;
  Desk& desk_;
  int n_above_ = 0, n_inside_ = 0;
  int n_listed_ = 0, fullest_ = 0;  // how many the block listed, or would have; the block with the most of them
  unsigned nearest_ = 0, farthest_ = 0;
  float seen_ = 0;  // above which value row.sums have the weights
};

}  // namespace fastsample::cuda
