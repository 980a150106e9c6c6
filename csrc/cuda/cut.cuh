// Where the filters cut a row of any kind, exactly: flat ones, ties, vocabularies of a million.
//
// A histogram says between which ranks the cut lies. A sweep then leaves, for each chunk, the weights above those ranks
// and the number of tokens between them. Few tokens are settled as candidates; ties, however many, by one scan over the
// chunks. Where neither is possible, or the cut lies elsewhere, there are fewer ranks left for the next turn.
#pragma once

#include "shortlist.cuh"

namespace fastsample::cuda {

template <Dtype D>
class Filters {
 public:
  __device__ Filters(const Row<D>& row, Desk& desk)
      : row_(row), desk_(desk), candidates_(row, desk), cut_{Row<D>::lowest(), INT32_MAX}, kept_(row.vocab) {}
  __device__ Edge cut() const { return cut_; }
  __device__ int64_t kept() const { return kept_; }

  // Leaves the sums of the kept weights in row.sums, so that the draw reads one chunk.
  __device__ __forceinline__ void apply(int top_k, float top_p, float min_p) {
#pragma unroll 1
    for (int filter = 0; filter < 2; ++filter) {
      const bool by_count = filter == 0;
      if (by_count ? top_k > 0 && top_k < row_.vocab : top_p < 1) {
        const int64_t total = by_count ? 0 : total_mass();
        close(by_count, by_count ? top_k : top_p_target(total, top_p), total);
      }
    }
    if (min_p > 0) keep_near(min_p);
  }

 private:
  static constexpr int kInside = 48;  // row.sums[j] of a sweep: the weights above, and from this bit on a count
  static constexpr int64_t kWeights = (int64_t{1} << kInside) - 1;

  __device__ int64_t total_mass() const {
    int64_t sum = 0;
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) sum += row_.mass_of(row_.sums[j], j);
    return block_sum(sum);
  }

  // How far below the row's maximum the first histogram looks closely.
  __device__ __forceinline__ float width_of(bool by_count, int64_t goal, int64_t total) const {
    if (by_count) {  // about twice as far as the lowest maximum of a chunk
      float lowest = row_.top;
#pragma unroll 1
      for (int j = thread_of(); j < row_.chunks; j += kThreads) {
        if (row_.tops[j] > kNever) lowest = fminf(lowest, row_.tops[j]);
      }
      lowest = block_reduce(lowest, Smaller());
      return 2 * (row_.top - lowest);
    }
    // All tokens below together weigh less than what may be missing from the total.
    const double missing = total - goal > 1 ? static_cast<double>(total - goal) : 1.0;
    const double depth = kWeightBits - logarithm(quotient(missing, row_.vocab)) * kLog2e;
    const float seen = row_.top - at_rank<D>(rank_of<D>(cut_.value)), wide = static_cast<float>(depth) / row_.factor;
    return wide < seen ? wide : seen;
  }

  __device__ __forceinline__ void close(bool by_count, int64_t goal, int64_t total) {
    Bracket left = {rank_of<D>(cut_.value), rank_of<D>(row_.top)};
    const float width = width_of(by_count, goal, total);
    bool is_linear = true;
#pragma unroll 1
    while (left.low <= left.high) {
      int inside;
      Bracket b = Histogram<D>(row_, desk_.bins)(left, is_linear, width, by_count, goal, total, &inside);
      if (inside < 0) break;
      if (inside > kCapacity && b.low < b.high) {
        const bool is_less = b.high - static_cast<int64_t>(b.low) < (left.high - static_cast<int64_t>(left.low)) / 2;
        if (is_less || is_linear) {
          left = b;
          is_linear = false;
          continue;
        }
        b.low = b.high =
            static_cast<int32_t>(b.low + (b.high - static_cast<int64_t>(b.low)) / 2);  // what is below a unit
      }
      is_linear = false;
      const int64_t above = sweep(at_rank<D>(b.low), at_rank<D>(b.high));
      const int64_t before = by_count ? n_above_ : above;
      if (before >= goal) {                      // the cut is higher
        left.low = b.high + 1 + (b.high == -2);  // there is no rank -1
      } else if (desk_.n <= kCapacity ? settle(by_count, goal, above)
                                      : b.low == b.high && settle_ties(by_count, goal, before, at_rank<D>(b.low))) {
        return;
      } else {
        left.high = b.low - 1 - (b.low == 0);
      }
    }
    // top_k of more tokens than are finite cuts nothing off
    sweep(kNever, kNever);
    unpack();
    kept_ = goal;
  }

  // Reads the chunks that reach `low` once. Leaves in row.sums what lies above `high` and how many tokens lie between,
  // collects those (as many as fit), counts what lies above, and returns its mass.
  __device__ __forceinline__ int64_t sweep(float low, float high) {
    sync_block();  // the candidates may still be read
    if (thread_of() == 0) desk_.n = 0;
    sync_block();
    int64_t above = 0;
    int n_above = 0;
    sweep_chunks(
        row_, low,
        [&](const Eight<D>& eight, int j, float top) {
          float x[kEight];
          eight.unpack(x);
          uint64_t sum = 0;
          unsigned inside = 0;
#pragma unroll
          for (int e = 0; e < kEight; ++e) {
            const uint32_t w = static_cast<uint32_t>(light_weight(x[e], top, row_.factor));
            const bool is_above = x[e] > high;
            sum += is_above ? w : 0u;
            n_above += is_above;
            inside |= x[e] >= low && !is_above ? 1u << e : 0u;
          }
          // A lane's sum has 34 bits: its halves fit into sums of 32.
          const uint32_t lower = __reduce_add_sync(kAll, static_cast<uint32_t>(sum & 0xffffffu)),
                         upper = __reduce_add_sync(kAll, static_cast<uint32_t>(sum >> 24));
          const Region region = candidates_.place(x, inside, j);
          if (lane_of() == 0) {
            const int64_t weights = static_cast<int64_t>(lower) + (static_cast<int64_t>(upper) << 24);
            row_.sums[j] = weights | static_cast<int64_t>(region.count) << kInside;
            above += row_.mass_of(weights, j);
          }
        },
        [&](int j) { row_.sums[j] = 0; });
    n_above_ = block_sum(n_above);
    return block_sum(above);
  }

  __device__ void unpack() const {
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) row_.sums[j] &= kWeights;
    sync_block();
  }

  // The cut among the candidates of a sweep; false where it is none of them.
  __device__ __forceinline__ bool settle(bool by_count, int64_t goal, int64_t above) {
    const int n = desk_.n;
    unpack();
    candidates_.weigh(n, true);
    candidates_.rank(n);
    Found found;
    if (!candidates_.pick(n, by_count, goal, &found, above, static_cast<int>(n_above_))) return false;
    cut_ = {value_of<D>(found.key), index_of(found.key)};
    kept_ = found.rank + 1;
    for (int c = thread_of(); c < n; c += kThreads) {
      const int64_t key = desk_.candidates[c].key;
      if (key < found.key) continue;
      atomicAdd(reinterpret_cast<unsigned long long*>(row_.sums + index_of(key) / kChunk),
                static_cast<unsigned long long>(desk_.weight[c]));
    }
    sync_block();
    return true;
  }

  // The cut among tokens of one value, which are kept in the order of the row; false where it is none of them.
  __device__ __forceinline__ bool settle_ties(bool by_count, int64_t goal, int64_t before, float tie) {
    __shared__ int chunk, last;
    __shared__ int64_t before_chunk;
    const int n = (row_.chunks + kThreads - 1) / kThreads, first = thread_of() * n;
    // What the first i ties of chunk j add.
    const auto added = [&](int j, int64_t packed, int i) {
      if (by_count) return static_cast<int64_t>(i);
      const int64_t weights = packed & kWeights, each = light_weight(tie, row_.tops[j], row_.factor);
      return row_.mass_of(weights + i * each, j) - row_.mass_of(weights, j);
    };
    const auto ties_of = [&](int64_t packed) { return static_cast<int>(packed >> kInside); };
    int64_t mine = 0;
    int n_ties = 0;
#pragma unroll 1
    for (int j = first; j < first + n && j < row_.chunks; ++j) {
      const int64_t packed = row_.sums[j];
      if (ties_of(packed)) mine += added(j, packed, ties_of(packed));
    }
    if (thread_of() == 0) chunk = -1;
    const Scanned<int64_t> measure = block_scan(mine);
    int64_t reached = before + measure.before;
    if (before + measure.total < goal) return false;
#pragma unroll 1
    for (int j = first; j < first + n && j < row_.chunks; ++j) {
      const int64_t packed = row_.sums[j], more = ties_of(packed) ? added(j, packed, ties_of(packed)) : 0;
      if (reached < goal && goal <= reached + more) chunk = j, before_chunk = reached;
      reached += more;
    }
    sync_block();
    const int at = chunk;
    // Its ties: the first i of them, of which thread i - 1 looks at one number.
    const int64_t of_it = row_.sums[at];
    const int i = thread_of() + 1;
    const bool is_enough = i <= ties_of(of_it) && before_chunk + added(at, of_it, i) >= goal;
    const int taken = block_reduce(is_enough ? i : kChunk, Smaller());
    const int place = at * kChunk + thread_of();
    const bool is_tie = row_.at(place) == tie;
    if (block_scan(static_cast<int>(is_tie)).before == taken - 1 && is_tie) last = place;
#pragma unroll 1
    for (int j = first; j < first + n && j < row_.chunks; ++j) {
      const int64_t packed = row_.sums[j];
      const int kept = j < at ? ties_of(packed) : j == at ? taken : 0;
      n_ties += kept;
      const int64_t each = kept ? light_weight(tie, row_.tops[j], row_.factor) : 0;
      row_.sums[j] = (packed & kWeights) + kept * each;
    }
    kept_ = n_above_ + block_sum(n_ties);  // behind its barriers all see `last`
    cut_ = {tie, last};
    return true;
  }

  // min_p is a bound on the logit: the lowest that is near enough to the row's maximum.
  __device__ __forceinline__ void keep_near(float min_p) {
    const float threshold = min_p_threshold(min_p);
    int64_t a = static_cast<int64_t>(rank_of<D>(-kLargest)) - 1, b = rank_of<D>(row_.top);
    while (b - a > 1) {
      const int64_t middle = a + (b - a) / 2;
      (below(at_rank<D>(static_cast<int32_t>(middle)), row_.top, row_.factor) >= threshold ? b : a) = middle;
    }
    const float near = at_rank<D>(static_cast<int32_t>(b));
    if (near < cut_.value || (near == cut_.value && cut_.last < INT32_MAX))
      return;  // another filter cut there or higher
    const float below_near = at_rank<D>(static_cast<int32_t>(b == 0 ? -2 : b - 1));
    sweep(below_near, below_near);
    unpack();
    kept_ = n_above_ < kept_ ? n_above_ : kept_;
    cut_ = {near, INT32_MAX};
  }

  const Row<D>& row_;
  Desk& desk_;
  Candidates<D> candidates_;
  Edge cut_;
  int64_t kept_, n_above_ = 0;
};

}  // namespace fastsample::cuda
