// Two launches. In the first, S blocks read a row together, once, and leave for each 256 tokens what the second needs:
// the maximum, and the sum of weights where the mass of the whole row is asked for. In the second a block finishes a
// row, or a few of them together, where there are few rows. It may be launched before the first ends, and waits for it.
//
// Bytes of global memory a row of V tokens: V * element size read, 4 or 12 per 256 tokens written and read again (12
// more with statistics); where a filter is on, also the chunks that can hold the cut, from cache.
#pragma once

#include "cut.cuh"
#include "sample.h"
#include "shortlist.cuh"
#include "statistics.cuh"

namespace fastsample::cuda {

struct Drawn {
  int64_t token;
  double share;  // the token's probability under the distribution it was drawn from
};

static __device__ __forceinline__ bool counts(int32_t top_k, int64_t vocab) { return top_k > 0 && top_k < vocab; }

// Whether a row's parameters ask for the mass of all of it: the second kernel finds every other mass by reading again.
static __device__ __forceinline__ bool needs_sums(float temperature, int32_t top_k, float top_p, float min_p,
                                                  int64_t vocab) {
  return !is_greedy(temperature) && !counts(top_k, vocab) && (top_p < 1 || !(min_p > 0));
}

// A token of chunk j, of which tokens down to `cut` are kept: the contract's second draw. By one warp.
template <Dtype D>
static __device__ __forceinline__ Drawn draw_token(const Row<D>& row, int j, Edge cut, uint64_t u2, double share) {
  __shared__ int where;
  __shared__ int64_t taken;
  Eight<D> eight;
  eight.read(row, j);
  float x[kEight];
  eight.unpack(x);
  int64_t w[kEight], mine = 0;
#pragma unroll
  for (int e = 0; e < kEight; ++e) {
    w[e] = cut.reaches(x[e], Eight<D>::place(j) + e) ? light_weight(x[e], row.tops[j], row.factor) : 0;
    mine += w[e];
  }
  const Scanned<int64_t> place = warp_scan(mine);
  const auto at = static_cast<int64_t>(high_product(u2, static_cast<uint64_t>(place.total)));
  int64_t before = place.before;
#pragma unroll
  for (int e = 0; e < kEight; ++e) {
    if (before <= at && at < before + w[e]) where = Eight<D>::place(j) + e, taken = w[e];
    before += w[e];
  }
  __syncwarp();
  return {where, share * quotient(static_cast<double>(taken), static_cast<double>(place.total))};
}

// One of `n` parts of the row: the contract's first draw, and then its second. Part e is chunk chunk_of(e), of which
// tokens down to `cut` with the weight weight_of(e) are kept. What it returns the first warp has; few parts need no
// other, and then no other may call it.
template <bool IsFew, Dtype D, class Chunk, class Weight>
static __device__ __forceinline__ Drawn draw(const Row<D>& row, int n, Chunk chunk_of, Weight weight_of, Edge cut,
                                             const Noise& noise) {
  __shared__ int64_t of_chunk;
  __shared__ int chunk;
  // Each thread owns neighbouring parts, so that a prefix sum over threads is one over the row.
  constexpr int threads = IsFew ? 32 : kThreads;
  const int each = (n + threads - 1) / threads, first = thread_of() * each;
  const auto measure = [&](int e) { return e < n ? row.mass_of(weight_of(e), chunk_of(e)) : int64_t{0}; };
  int64_t mine = 0;
#pragma unroll 1
  for (int k = 0; k < each; ++k) mine += measure(first + k);
  Scanned<int64_t> place;
  if (IsFew) {
    place = warp_scan(mine);
  } else {
    place = scan_at<2>(mine);
  }
  const auto in_row = static_cast<int64_t>(high_product(noise.u1, static_cast<uint64_t>(place.total)));
  int64_t before = place.before;
  if (before <= in_row && in_row < before + mine) {
#pragma unroll 1
    for (int k = 0; k < each; ++k) {
      const int64_t m = measure(first + k);
      if (before <= in_row && in_row < before + m) chunk = chunk_of(first + k), of_chunk = m;
      before += m;
    }
  }
  if (!IsFew) sync_block();
  __syncwarp();
  if (!IsFew && warp_of()) return {0, 0};
  const double share = quotient(static_cast<double>(of_chunk), static_cast<double>(place.total));
  return draw_token(row, chunk, cut, noise.u2, share);
}

// The first token of the highest logit.
template <Dtype D>
static __device__ __forceinline__ Drawn draw_greedy(const Row<D>& row) {
  int j = row.chunks;
#pragma unroll 1
  for (int k = thread_of(); k < row.chunks; k += kThreads) {
    if (row.tops[k] == row.top && k < j) j = k;
  }
  j = block_reduce(j, Smaller());
  const int i = j * kChunk + thread_of();
  return {block_reduce(row.at(i) == row.top ? i : INT32_MAX, Smaller()), 1.0};
}

// The untouched row at temperature 1, from the moments of its chunks.
template <Dtype D>
static __device__ __forceinline__ void write_raw(const Row<D>& row, const Stats& stats, int64_t b, int64_t token) {
  double e = 0, ed = 0, down = 0;
#pragma unroll 1
  for (int j = thread_of(); j < row.chunks; j += kThreads) {
    const double d = static_cast<double>(row.tops[j]) - static_cast<double>(row.top), to_row = exponential(d);
    const int left = row.vocab - j * kChunk;
    down += static_cast<double>(row.moments[2 * row.chunks + j]) + d * (left < kChunk ? left : kChunk);
    if (to_row == 0) continue;  // a forbidden chunk among them
    e += to_row * static_cast<double>(row.moments[j]);
    ed += to_row * (static_cast<double>(row.moments[row.chunks + j]) + d * static_cast<double>(row.moments[j]));
  }
  e = block_sum(e);
  ed = block_sum(ed);
  down = block_sum(down);
  if (thread_of()) return;
  const double log_sum = logarithm(e), vocab = row.vocab;
  const double below_top = static_cast<double>(row.at(static_cast<int>(token))) - static_cast<double>(row.top);
  stats.raw_logprob[b] = static_cast<float>(below_top - log_sum);
  stats.entropy[b] = static_cast<float>(log_sum - quotient(ed, e));
  stats.self_certainty[b] = static_cast<float>(log_sum - quotient(down, vocab) - logarithm(vocab));
}

// The maxima into shared memory, with their masses where these are needed; returns the mass of the row, or leaves the
// lowest finite maximum in *lowest_top.
template <Dtype D>
static __device__ __forceinline__ int64_t list_tops(const Row<D>& row, Desk& desk, bool with_masses,
                                                    float* lowest_top) {
  List& list = desk.list;
  if (row.chunks > kMaxTops) return 0;
  list.count_in[thread_of()] = list.mass_in[thread_of()] = 0;
  int64_t mine = 0;
  float lowest = row.top;
#pragma unroll 1
  for (int j = thread_of(); j < row.chunks; j += kThreads) {
    const float top = row.tops[j];
    list.tops[j] = top;
    if (top > kNever) lowest = fminf(lowest, top);
    if (with_masses) {
      const int64_t m = row.mass_of(row.sums[j], j);
      list.masses[j] = static_cast<float>(m);
      mine += m;
    }
  }
  if (with_masses) return sum_at<6>(mine);
  *lowest_top = reduce_at<5>(lowest, Smaller());
  return 0;
}

// What the blocks of a team do alike, each by itself, but for the slow path, which they share; the first one writes.
template <Dtype D>
static __device__ __forceinline__ void finish_row(const Call& call, const Team& team, const Row<D>& row, int64_t b,
                                                  Desk& desk) {
  const bool is_written = thread_of() == 0 && team.leads(), has_stats = call.stats.logprob != nullptr;
  const Status status = row.top != row.top                                                              ? kHoldsNan
                        : row.top > kLargest                                                            ? kHoldsInfinity
                        : row.top < -kLargest                                                           ? kNoFinite
                        : is_in_range(call.temperature[b], call.top_k[b], call.top_p[b], call.min_p[b]) ? kValid
                                                                                                        : kOutOfRange;
  if (is_written && has_stats) call.stats.status[b] = status;
  if (status != kValid) {
    if (!is_written) return;
    call.tokens[b] = -1;
    if (!has_stats) return;
    call.stats.logprob[b] = call.stats.raw_logprob[b] = __builtin_nanf("");
    call.stats.entropy[b] = call.stats.self_certainty[b] = __builtin_nanf("");
    call.stats.kept[b] = 0;
    return;
  }
  const float top_p = call.top_p[b], min_p = call.min_p[b], temperature = call.temperature[b];
  const int32_t top_k = call.top_k[b];
  __shared__ Noise noise;
  if (thread_of() == 0) {
    const int64_t stream = call.stream ? call.stream[b] : b;
    noise = philox(static_cast<uint64_t>(call.seed[b]), static_cast<uint64_t>(stream),
                   static_cast<uint64_t>(call.position[b]));
  }
  Drawn drawn = {0, 0};
  Edge cut = {Row<D>::lowest(), INT32_MAX};
  int64_t kept = row.vocab;
  const auto chunk_of = [](int j) { return j; };
  const auto weight_of = [&](int j) { return row.sums[j]; };
  if (is_greedy(temperature)) {
    drawn = draw_greedy(row);
    kept = 1;
  } else if (!counts(top_k, row.vocab) && !(top_p < 1) && !(min_p > 0)) {
    drawn = draw<false>(row, row.chunks, chunk_of, weight_of, cut, noise);
  } else {
    float lowest_top = kNever;
    const int64_t total = list_tops(row, desk, needs_sums(temperature, top_k, top_p, min_p, row.vocab), &lowest_top);
    Shortlist<D> few(row, desk, lowest_top);
    if (few.apply(top_k, top_p, min_p, total, &cut, &kept)) {
      if (warp_of() == 0) {
        drawn = draw<true>(
            row, few.slots(), [&](int e) { return few.chunk(e); }, [&](int e) { return few.kept_weight(e, cut); }, cut,
            noise);
      }
    } else {
      Filters<D> filters(team, row, desk);
      filters.apply(top_k, top_p, min_p);
      kept = filters.kept();
      drawn = draw<false>(row, row.chunks, chunk_of, weight_of, filters.cut(), noise);
    }
  }
  if (is_written) call.tokens[b] = drawn.token;
  if (!has_stats || !team.leads()) return;
  if (is_written) {
    call.stats.logprob[b] = static_cast<float>(logarithm(drawn.share));
    call.stats.kept[b] = kept;
  }
  write_raw(row, call.stats, b, drawn.token);
}

// The launch before this one has ended, and what it wrote is seen; the one behind may begin, and waits in its turn.
static __device__ __forceinline__ void follow() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

template <Dtype D>
static __device__ __forceinline__ Row<D> row_of(const Call& call, const Workspace& space, int64_t b) {
  const int64_t source = call.indices ? call.indices[b] : b;
  const bool is_row = source >= 0 && source < call.count;  // otherwise an empty row: invalid, and nothing is read
  Row<D> row;
  row.x = static_cast<const typename Logits<D>::Element*>(call.logits) + (is_row ? source * call.row_stride : 0);
  row.vocab = is_row ? static_cast<int>(call.vocab) : 0;
  row.chunks = static_cast<int>((call.vocab + kChunk - 1) / kChunk);
  row.factor = inverse_temperature(call.temperature[b]);
  row.tops = space.tops + b * row.chunks;
  row.sums = space.sums + b * row.chunks;
  row.moments = space.moments + b * 3 * row.chunks;
  return row;
}

template <Dtype D, bool WithStats>
static __device__ __forceinline__ void read(const Call& call, const Workspace& space) {
  follow();
  const int splits = space.splits, split = static_cast<int>(blockIdx.x % splits);
  const int64_t b = blockIdx.x / splits;
  const Row<D> row = row_of<D>(call, space, b);
  constexpr int at_once = kThreads / kLanes;
  const int first = split * at_once, step = splits * at_once;
  if (!needs_sums(call.temperature[b], call.top_k[b], call.top_p[b], call.min_p[b], call.vocab)) {
    chunk_statistics<D, Sums::kNone, WithStats>(row, first, step);
  } else if (row.factor >= kLeastFactor) {
    chunk_statistics<D, Sums::kUsual, WithStats>(row, first, step);
  } else {
    chunk_statistics<D, Sums::kHot, WithStats>(row, first, step);
  }
}

template <Dtype D>
static __device__ __forceinline__ void finish(const Call& call, const Workspace& space) {
  __shared__ Desk desk;
  follow();
  const Team team = Team::of_blocks(space.team);
  const int64_t b = team.index;
  Row<D> row = row_of<D>(call, space, b);
  float top = kNever;
#pragma unroll 1
  for (int j = thread_of(); j < row.chunks; j += kThreads) top = LargerOrNan()(top, row.tops[j]);
  row.top = reduce_at<0>(top, LargerOrNan());
  finish_row(call, team, row, b, desk);
}

// Half of a multiprocessor's warps must be resident: 24 of 48 on the consumer parts, 32 of 64 on the others.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ == 1200)
constexpr int kResident = 3;
#else
constexpr int kResident = 4;
#endif
constexpr int kFinishers = 2;  // blocks of the second kernel: each thread has 128 registers

template <Dtype D, bool WithStats>
__global__ void __launch_bounds__(kThreads, kResident) read_rows(Call call, Workspace space) {
  read<D, WithStats>(call, space);
}

template <Dtype D>
__global__ void __launch_bounds__(kThreads, kFinishers) finish_rows(Call call, Workspace space) {
  finish<D>(call, space);
}

}  // namespace fastsample::cuda
