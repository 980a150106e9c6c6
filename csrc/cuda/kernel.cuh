// One launch of S * B blocks: S of them read a row together, once, and leave (maximum, sum of weights) per 256 tokens.
// The last of them to arrive turns those into the token. Nothing waits for another block: the others have left by then.
//
// Bytes of global memory a row of V tokens: V * element size read, 12 per 256 tokens written and read again (24 with
// statistics); where a filter is on, also the chunks that can hold the cut, twice or three times, from cache.
#pragma once

#include "cut.cuh"
#include "sample.h"
#include "statistics.cuh"

namespace fastsample::cuda {

// Workspace: tops and sums [B, chunks], moments [B, 3, chunks] or null, ticket [B], splits = S.

// Shared memory for a row (which shared memory cannot construct).
template <Dtype D>
struct RowBox {
  alignas(8) unsigned char bytes[sizeof(Row<D>)];
  __device__ void set(const Row<D>& row) { memcpy(bytes, &row, sizeof row); }
  __device__ const Row<D>& row() const { return *reinterpret_cast<const Row<D>*>(bytes); }
};

struct Drawn {
  int64_t token;
  double share;  // the token's probability under the distribution it was drawn from
};

// The first index whose running sum of the 256 values exceeds `at`; that sum's last term is left in *term.
static __device__ __forceinline__ int draw_one(int64_t v, int64_t at, int64_t* term) {
  __shared__ int64_t taken;
  __shared__ int where;
  const int64_t before = block_before(v);
  if (before <= at && at < before + v) where = thread_of(), taken = v;
  sync_block();
  const int found = where;
  *term = taken;
  sync_block();
  return found;
}

template <Dtype D>
static __device__ __forceinline__ Drawn draw(const Row<D>& row, bool is_greedy, int64_t cut, Noise noise) {
  // Each thread owns neighbouring chunks, so that a prefix sum over threads is one over chunks.
  const int n = (row.chunks + kThreads - 1) / kThreads, first = thread_of() * n;
  const auto measure = [&](int j) {
    if (j >= row.chunks) return int64_t{0};
    return is_greedy ? int64_t{row.tops[j] == row.top} : row.mass_of(row.sums[j], j);
  };
  int64_t mine = 0;
#pragma unroll 1
  for (int k = 0; k < n; ++k) mine += measure(first + k);
  const int64_t total = block_sum(mine);
  const int64_t in_row = is_greedy ? 0 : static_cast<int64_t>(high_product(noise.u1, static_cast<uint64_t>(total)));
  int64_t before = block_before(mine);
  __shared__ int chunk;
  __shared__ int64_t of_chunk;
#pragma unroll 1
  for (int k = 0; k < n; ++k) {
    const int64_t m = measure(first + k);
    if (before <= in_row && in_row < before + m) chunk = first + k, of_chunk = m;
    before += m;
  }
  sync_block();
  const int j = chunk, i = j * kChunk + thread_of();
  const float x = row.at(i);
  int64_t w = 0;
  if (is_greedy) {
    w = x == row.top;
  } else if (Edge(cut).reaches(x, i)) {
    w = light_weight(x, row.tops[j], row.factor);
  }
  const int64_t in_chunk = block_sum(w);
  int64_t taken;
  const int at = draw_one(
      w, is_greedy ? 0 : static_cast<int64_t>(high_product(noise.u2, static_cast<uint64_t>(in_chunk))), &taken);
  const double share = quotient(static_cast<double>(taken), static_cast<double>(in_chunk)) *
                       quotient(static_cast<double>(of_chunk), static_cast<double>(total));
  return {static_cast<int64_t>(j) * kChunk + at, is_greedy ? 1.0 : share};
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

template <Dtype D>
static __device__ __forceinline__ void finish_row(const Call& call, const Row<D>& row, int64_t b, Desk& desk) {
  const bool is_written = thread_of() == 0, has_stats = call.stats.logprob != nullptr;
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
  const bool is_greedy = fastsample::is_greedy(call.temperature[b]);
  Filters<D> filters(row, desk);
  if (!is_greedy) filters.apply(call.top_k[b], call.top_p[b], call.min_p[b]);
  const int64_t stream = call.stream ? call.stream[b] : b;
  const Noise noise = philox(static_cast<uint64_t>(call.seed[b]), static_cast<uint64_t>(stream),
                             static_cast<uint64_t>(call.position[b]));
  const Drawn drawn = draw(row, is_greedy, filters.cut(), noise);
  if (is_written) call.tokens[b] = drawn.token;
  if (!has_stats) return;
  if (is_written) {
    call.stats.logprob[b] = static_cast<float>(logarithm(drawn.share));
    call.stats.kept[b] = is_greedy ? 1 : filters.kept();
  }
  write_raw(row, call.stats, b, drawn.token);
}

template <Dtype D, bool WithStats>
static __device__ __forceinline__ void sample_row(const Call& call, const Workspace& space) {
  __shared__ Desk desk;
  __shared__ bool is_last;
  __shared__ RowBox<D> box;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();  // the logits may come from the launch before
  cudaTriggerProgrammaticLaunchCompletion();
#endif
  const int splits = space.splits, split = static_cast<int>(blockIdx.x % splits);
  const int64_t b = blockIdx.x / splits, source = call.indices ? call.indices[b] : b;
  const bool is_row = source >= 0 && source < call.count;  // otherwise an empty row: invalid, and nothing is read
  Row<D> row;
  row.x = static_cast<const typename Logits<D>::Element*>(call.logits) + (is_row ? source * call.row_stride : 0);
  row.vocab = is_row ? static_cast<int>(call.vocab) : 0;
  row.chunks = static_cast<int>((call.vocab + kChunk - 1) / kChunk);
  row.factor = inverse_temperature(call.temperature[b]);
  row.tops = space.tops + b * row.chunks;
  row.sums = space.sums + b * row.chunks;
  row.moments = WithStats ? space.moments + b * 3 * row.chunks : nullptr;
  constexpr int at_once = kThreads / kLanes;
  chunk_statistics<D, WithStats>(row, split * at_once, splits * at_once);
  if (splits > 1) {
    __threadfence();  // what this block wrote must be seen by the last one
    sync_block();
    if (thread_of() == 0) is_last = atomicInc(space.ticket + b, splits - 1) == splits - 1u;
    sync_block();
    if (!is_last) return;
    __threadfence();
  } else {
    sync_block();
  }
  float top = kNever;
#pragma unroll 1
  for (int j = thread_of(); j < row.chunks; j += kThreads) top = LargerOrNan()(top, row.tops[j]);
  row.top = block_reduce(top, LargerOrNan());
  if (thread_of() == 0) box.set(row);  // a row is alike for all threads: from here on it takes no registers
  sync_block();
  finish_row(call, box.row(), b, desk);
}

// Half of a multiprocessor's warps must be resident: 24 of 48 on the consumer parts, 32 of 64 on the others.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ == 1200)
constexpr int kResident = 3;
#else
constexpr int kResident = 4;
#endif

template <Dtype D, bool WithStats>
__global__ void __launch_bounds__(kThreads, kResident) sample_kernel(Call call, Workspace space) {
  sample_row<D, WithStats>(call, space);
}

}  // namespace fastsample::cuda
