// Where the filters cut a row, exactly.
//
// The kept prefix ends at a key. `low` and `high` are keys such that the tokens at or before `low` reach a filter's
// target and those at or before `high` do not: the cut lies in [low, high). A sweep reads the chunks that reach a
// bracket inside that range once, adds up with integers what lies above it and in it, and collects what lies in it.
// Every sweep leaves less.
#pragma once

#include "guess.cuh"

namespace fastsample::cuda {

struct Swept {
  int64_t above, down_to_low;  // mass at or before the bracket's high key, and its low key
  int64_t n_above;
  int n_inside;
};

template <Dtype D>
class Filters {
 public:
  __device__ Filters(const Row<D>& row, Desk& desk) : row_(row), desk_(desk), kept_(row.vocab) {}
  __device__ int64_t cut() const { return cut_; }
  __device__ int64_t kept() const { return kept_; }

  // Leaves the sums of the kept weights in row.sums, so that the draw reads one chunk.
  __device__ void apply(int64_t top_k, float top_p, float min_p) {
#pragma unroll 1
    for (int filter = 0; filter < 2; ++filter) {
      const bool by_count = filter == 0;
      if (by_count ? top_k > 0 && top_k < row_.vocab : top_p < 1) {
        const int64_t total = by_count ? 0 : row_.total_mass();
        close(by_count, by_count ? top_k : top_p_target(total, top_p), total);
      }
    }
    if (min_p > 0) keep_near(min_p);
  }

 private:
  __device__ __forceinline__ void close(bool by_count, int64_t target, int64_t total) {
    int64_t low = cut_, high = key_before(row_.top) + (1 << kIndexBits);
    Bracket b = Guess<D>(row_, desk_, by_count)(low, target, total);
    b.low = b.low < high - 1 ? b.low : high - 1;
    b.low = b.low > low ? b.low : low;
    b.high = b.high > b.low + 1 ? b.high : b.low + 1;
    b.high = b.high < high ? b.high : high;
#pragma unroll 1
    for (int tries = 0;;) {
      const Swept found = sweep(b);
      const int64_t above = by_count ? found.n_above : found.above;
      const int64_t within = by_count ? found.n_above + found.n_inside : found.down_to_low;
      if (b.low == b.high) {  // top_k of more tokens than are finite cuts nothing off
        kept_ = target;
        return;
      }
      const int64_t width = b.high - b.low;
      if (above >= target) {  // the cut is higher
        low = b.high;
        b = {low, high - low < 8 * width ? high : low + 8 * width};
      } else if (within < target) {  // it is lower
        high = b.low;
        b = b.low == low ? Bracket{low, low} : Bracket{high - low < 8 * width ? low : high - 8 * width, high};
      } else {
        low = b.low, high = b.high;
        if (found.n_inside <= kCapacity && settle(found, by_count, above, target, &b)) return;
        if (found.n_inside <= kCapacity && (b.high - b.low) < width / 2) continue;
        // Too many: the next bracket lies where the target should be if the measure were even over the range.
        const double share = quotient(static_cast<double>(target - above), static_cast<double>(within - above));
        const double wide = quotient(kCapacity / 4.0, found.n_inside), half = wide > 1.0 / 64 ? wide : 1.0 / 64;
        const double upper = share > half ? share - half : 0, lower = share + half < 1 ? share + half : 1;
        if (tries++ < 3 && width > kCapacity) {
          b = {high - static_cast<int64_t>(lower * width), high - static_cast<int64_t>(upper * width)};
        } else {
          b = {low + width / 4, high - width / 4};
        }
      }
    }
  }

  // A warp a chunk. Leaves the sums at or before b.high in row.sums, and the keys inside in the desk (as many as fit).
  __device__ __forceinline__ Swept sweep(Bracket b) {
    __shared__ int n_inside;
    sync_block();  // the desk may still be read
    if (thread_of() == 0) n_inside = 0;
    sync_block();
    const Edge from(b.low), to(b.high);
    Swept s = {0, 0, 0, 0};
    int n_above = 0;
#pragma unroll 1
    for (int first = 0; first < row_.chunks; first += kThreads) {
      const int mine = first + lane_of() * kWarps + warp_of();  // neighbours go to different warps
      const bool is_one = mine < row_.chunks;
      const bool reaches = is_one && row_.tops[mine] >= from.value;
      if (is_one && !reaches) row_.sums[mine] = 0;
#pragma unroll 1
      for (unsigned left = __ballot_sync(kAll, reaches); left; left &= left - 1) {
        const int j = first + (__ffs(static_cast<int>(left)) - 1) * kWarps + warp_of();
        const float top = row_.tops[j];
        int64_t weights = 0, inside = 0;
#pragma unroll 1
        for (int k = lane_of(); k < kChunk; k += 32) {
          const int i = j * kChunk + k;
          const float x = row_.at(i);
          const int64_t w = light_weight(x, top, row_.factor);
          const bool is_above = to.reaches(x, i), is_inside = !is_above && from.reaches(x, i);
          weights += is_above ? w : 0;
          inside += is_inside ? w : 0;
          n_above += is_above;
          const unsigned who = __ballot_sync(kAll, is_inside);
          if (who) {
            int at = 0;
            if (lane_of() == 0) at = atomicAdd(&n_inside, __popc(who));
            at = __shfl_sync(kAll, at, 0) + __popc(who & ((1u << lane_of()) - 1));
            if (is_inside && at < kCapacity) desk_.candidates.key[at] = key_of(x, i);
          }
        }
        weights = warp_reduce(weights, Add());
        inside = warp_reduce(inside, Add());
        if (lane_of() == 0) {
          row_.sums[j] = weights;
          s.above += row_.mass_of(weights, j);
          s.down_to_low += row_.mass_of(weights + inside, j);
        }
      }
    }
    s.above = block_sum(s.above);
    s.down_to_low = block_sum(s.down_to_low);
    s.n_above = block_sum(static_cast<int64_t>(n_above));
    s.n_inside = n_inside;
    return s;
  }

  // The cut among the candidates of a sweep, if few of them can hold it; otherwise *b is what is left of the range.
  __device__ __forceinline__ bool settle(const Swept& found, bool by_count, int64_t above, int64_t target, Bracket* b) {
    int64_t* const key = desk_.candidates.key;
    int64_t* const measure = desk_.candidates.measure;
    const int n = found.n_inside;
    int n_left = n;
    int64_t n_added = 0;
    if (n > kFew) {
      // The masses of single tokens are rounded down one by one, so their sum is off by less than 2 n + 2.
      const int64_t slack = by_count ? 0 : 2 * n + 2;
#pragma unroll 1
      for (int c = thread_of(); c < n; c += kThreads) {
        measure[c] = by_count ? 1 : row_.mass_of(weight_of(key[c]), chunk_of(key[c]));
      }
      sync_block();
      const int64_t sure = reaching(key, measure, n, target + slack - above, *b);
      const int64_t possible = reaching(key, measure, n, target - slack - above, {sure, b->high});
      *b = {sure, possible + 1};
      int mine = 0;
#pragma unroll 1
      for (int c = thread_of(); c < n; c += kThreads) mine += key[c] >= sure && key[c] <= possible;
      n_left = block_sum(mine);
      if (n_left > kFew) return false;
#pragma unroll 1
      for (int c = thread_of(); c < n; c += kThreads) {
        if (key[c] <= possible) continue;
        ++n_added;
        atomicAdd(reinterpret_cast<unsigned long long*>(row_.sums + chunk_of(key[c])),
                  static_cast<unsigned long long>(weight_of(key[c])));
      }
      n_added = block_sum(n_added);
      keep_between(key, n, *b);
      above = by_count ? found.n_above + n_added : row_.total_mass();
    }
    rank_few(key, n_left, by_count, above, target, found.n_above + n_added);
    return true;
  }

  static __device__ int chunk_of(int64_t key) { return static_cast<int>((key & kIndexMask) ^ kIndexMask) / kChunk; }
  __device__ int64_t weight_of(int64_t key) const {
    return light_weight(at_rank(key >> kIndexBits), row_.tops[chunk_of(key)], row_.factor);
  }

  // The largest key of [b.low, b.high) such that the candidates at or before it measure `missing`, or b.low.
  __device__ int64_t reaching(const int64_t* key, const int64_t* measure, int n, int64_t missing, Bracket b) const {
    while (b.high - b.low > 1) {
      const int64_t middle = b.low + (b.high - b.low) / 2;
      int64_t sum = 0;
#pragma unroll 1
      for (int c = thread_of(); c < n; c += kThreads) sum += key[c] >= middle ? measure[c] : 0;
      (block_sum(sum) >= missing ? b.low : b.high) = middle;
    }
    return b.low;
  }

  // Moves the keys of [b.low, b.high), at most kFew, to the front.
  __device__ __forceinline__ void keep_between(int64_t* key, int n, Bracket b) const {
    __shared__ int64_t few[kFew];
    __shared__ int count;
    if (thread_of() == 0) count = 0;
    sync_block();
#pragma unroll 1
    for (int c = thread_of(); c < n; c += kThreads) {
      if (key[c] >= b.low && key[c] < b.high) few[atomicAdd(&count, 1)] = key[c];
    }
    sync_block();
    if (const int c = thread_of(); c < count) key[c] = few[c];
    sync_block();
  }

  // Within a chunk tokens are kept in the order of their keys, so what each adds to its chunk's mass is known exactly.
  __device__ __forceinline__ void rank_few(const int64_t* key, int n, bool by_count, int64_t above, int64_t target,
                                           int64_t n_above) {
    __shared__ int64_t adds[kFew];
    const int c = thread_of();
    const bool is_one = c < n;
    const int j = is_one ? chunk_of(key[c]) : -1;
    int64_t weights = 0;  // of the chunk down to this candidate
    if (is_one) {
      weights = row_.sums[j];
#pragma unroll 1
      for (int d = 0; d < n; ++d) weights += key[d] >= key[c] && chunk_of(key[d]) == j ? weight_of(key[d]) : 0;
      adds[c] = by_count ? 1 : row_.mass_of(weights, j) - row_.mass_of(weights - weight_of(key[c]), j);
    }
    sync_block();
    int64_t reached = above;
#pragma unroll 1
    for (int d = 0; is_one && d < n; ++d) reached += key[d] >= key[c] ? adds[d] : 0;
    cut_ = block_reduce(is_one && reached >= target ? key[c] : INT64_MIN, Larger());
    bool is_last = is_one && key[c] >= cut_;  // of its chunk's kept candidates
    kept_ = n_above + block_sum(static_cast<int64_t>(is_last));
#pragma unroll 1
    for (int d = 0; is_last && d < n; ++d) is_last = !(key[d] >= cut_ && key[d] < key[c] && chunk_of(key[d]) == j);
    if (is_last) row_.sums[j] = weights;
    sync_block();
  }

  // min_p is a bound on the logit: the smallest that is near enough to the row's maximum.
  __device__ __forceinline__ void keep_near(float min_p) {
    const float threshold = min_p_threshold(min_p);
    int64_t a = (kLowestKey >> kIndexBits) - 1, b = rank_of(row_.top);
    while (b - a > 1) {
      const int64_t middle = a + (b - a) / 2;
      (below(at_rank(middle), row_.top, row_.factor) >= threshold ? b : a) = middle;
    }
    const int64_t near = b * (1 << kIndexBits);
    if (near < cut_) return;  // another filter cut higher
    const int64_t n = sweep({near, near}).n_above;
    kept_ = n < kept_ ? n : kept_;
    cut_ = near;
  }

  const Row<D>& row_;
  Desk& desk_;
  int64_t cut_ = kLowestKey;
  int64_t kept_;
};

}  // namespace fastsample::cuda
