// Where the filters cut a row of any kind, exactly: flat ones, ties, vocabularies of a million.
//
// A sample says between which ranks the cut should lie. A sweep then leaves, for each chunk, the weights above those
// ranks and the number of tokens between them. Few tokens are settled as candidates; ties, however many, by one scan
// over the chunks. Where neither is possible, or the cut lies elsewhere, there are fewer ranks left for the next sweep,
// which weighs only what none before it had above its ranks.
//
// A team of blocks does this together. Each reads its share of the row and lists what it finds there; what is decided
// all of them decide, of the same numbers, and the first one alone writes it down.
#pragma once

#include "sweep.cuh"

namespace fastsample::cuda {

template <Dtype D>
class Filters {
 public:
  __device__ Filters(const Team& team, const Row<D>& row, Desk& desk)
      : team_(team),
        row_(row),
        desk_(desk),
        candidates_(row, desk),
        sweep_(team, row, desk),
        cut_{Row<D>::lowest(), INT32_MAX},
        kept_(row.vocab) {}
  __device__ Edge cut() const { return cut_; }
  __device__ int64_t kept() const { return kept_; }

  // Leaves the sums of the kept weights in row.sums, so that the draw reads one chunk.
  __device__ __forceinline__ void apply(int top_k, float top_p, float min_p) {
#pragma unroll 1
    for (int filter = 0; filter < 2; ++filter) {
      const bool by_count = filter == 0;
      if (by_count ? top_k > 0 && top_k < row_.vocab : top_p < 1) {
        const int64_t total = by_count ? 0 : total_mass();
        close({by_count, by_count ? top_k : top_p_target(total, top_p), total});
      }
    }
    if (min_p > 0) keep_near(min_p);
  }

 private:
  __device__ __forceinline__ int64_t total_mass() const {
    int64_t sum = 0;
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) sum += row_.mass_of(row_.sums[j] & kWeights, j);
    return block_sum(sum);
  }

  // How far below the row's maximum the sample looks closely.
  __device__ __forceinline__ float width_of(const Measure& measure) const {
    if (measure.by_count) {  // about twice as far as the lowest maximum of a chunk
      float lowest = row_.top;
#pragma unroll 1
      for (int j = thread_of(); j < row_.chunks; j += kThreads) {
        if (row_.tops[j] > kNever) lowest = fminf(lowest, row_.tops[j]);
      }
      lowest = block_reduce(lowest, Smaller());
      return 2 * (row_.top - lowest);
    }
    // All tokens below together weigh less than what may be missing from the total.
    const int64_t rest = measure.total - measure.goal;
    const double missing = rest > 1 ? static_cast<double>(rest) : 1.0;
    const double depth = kWeightBits - logarithm(quotient(missing, row_.vocab)) * kLog2e;
    const float seen = row_.top - at_rank<D>(rank_of<D>(cut_.value)), wide = static_cast<float>(depth) / row_.factor;
    return wide < seen ? wide : seen;
  }

  // In which units bins count mass: what is left of the row has 2^31.
  static __device__ float unit_of(int64_t rest) { return 0x1p31f / static_cast<float>(rest); }

  __device__ __forceinline__ void close(const Measure& measure) {
    Bracket left = {rank_of<D>(cut_.value), rank_of<D>(row_.top)};
    Bracket at = sampled(team_, row_, desk_.crowd.bins, measure, cut_.value, width_of(measure));
    bool is_first = true, is_listed = false;
#pragma unroll 1
    while (!left.is_empty()) {
      unit_ = measure.by_count ? 1.0f : unit_of(measure.total - (is_first ? 0 : before_));
      if (is_listed) {
        sweep_.take(at, measure.by_count, unit_);
      } else if (is_first) {
        sweep_.template read<true>(at, measure.by_count, unit_);
      } else {
        sweep_.template read<false>(at, measure.by_count, unit_);
      }
      before_ = measure.by_count ? sweep_.n_above() : total_mass();
      is_first = before_ >= measure.goal;
      const bool is_one = at.low == at.high;
      if (is_first) {                              // the cut is higher
        left.low = at.high + 1 + (at.high == -2);  // there is no rank -1
      } else if (is_one || sweep_.n_inside() <= (is_listed ? kCapacity : 0)) {
        if (is_one ? settle_ties(measure, at_rank<D>(at.low)) : settle(measure)) return;
        left.high = at.low - 1 - (at.low == 0);
      } else {
        left.high = at.high;
        at = narrowed(at, measure);
        is_listed = is_listed || sweep_.is_listed();
        continue;
      }
      at = left;
      is_listed = false;
    }
    // top_k of more tokens than are finite cuts nothing off
    sweep_.keep_above(kNever);
    kept_ = measure.goal;
  }

  // The ranks among those of a sweep, whose tokens are too many, between which the cut lies; the same once more where
  // finer bins will say it; otherwise one that says on which side of it to look.
  __device__ __forceinline__ Bracket narrowed(Bracket at, const Measure& measure) const {
    Bins& bins = desk_.crowd.bins;
    // A token's amount is rounded, its weight and the mass of its chunk rounded down.
    const float each = measure.by_count ? 0 : static_cast<float>(sweep_.n_inside()) * (0.5f + 2 * unit_) + 1;
    choose(team_, bins, static_cast<float>(measure.goal - before_) * unit_, false,
           [&](int, float sum, float) { return measure.by_count ? 0 : sum * 0x1p-20f + each; });
    const Bracket inside = sweep_.of_inside(at);
    if (bins.first == kBins) return {inside.low, inside.low};
    const auto border = [&](int bin) { return at.high - (static_cast<int64_t>(bin) << at.shift()); };
    const int64_t low = bins.last < kBins ? border(bins.last + 1) + 1 : inside.low, high = border(bins.first);
    Bracket next = {static_cast<int32_t>(low > inside.low ? low : inside.low),
                    static_cast<int32_t>(high < inside.high ? high : inside.high)};
    if (next.width() <= at.width() / 2) return next;
    if (!measure.by_count && 2 * unit_ < unit_of(measure.total - before_)) return next;
    next.low = next.high = next.low + static_cast<int32_t>(next.width() / 2);
    if (next.low == -1) next.low = next.high = 0;  // there is no such rank
    return next;
  }

  // The cut among the candidates of all blocks; false where it is none of them.
  __device__ __forceinline__ bool settle(const Measure& measure) {
    const int n = sweep_.n_inside();
    gather();
    candidates_.template weigh<true>(n);
    candidates_.rank(n);
    Found found;
    if (!candidates_.pick(n, measure.by_count, measure.goal, &found, before_, sweep_.n_above())) return false;
    cut_ = {value_of<D>(found.key), index_of(found.key)};
    kept_ = found.rank + 1;
    team_.sync();  // the sums may still be read
    for (int c = thread_of(); team_.leads() && c < n; c += kThreads) {
      const int64_t key = desk_.candidates[c].key;
      if (key >= found.key) sweep_.add(index_of(key) / kChunk, desk_.weight[c]);
    }
    team_.sync();
    return true;
  }

  // The other blocks' candidates behind the block's own.
  __device__ __forceinline__ void gather() {
    if (team_.size == 1) return;
    int at = desk_.n;
    for (int n = 1; n < team_.size; ++n) {
      const int count = *team_.of(&desk_.n, n);
      const Candidate* const theirs = team_.of(desk_.candidates, n);
      for (int c = thread_of(); c < count; c += kThreads) desk_.candidates[at + c].key = theirs[c].key;
      at += count;
    }
    team_.sync();
  }

  // The cut among tokens of one value, which are kept in the order of the row; false where it is none of them.
  __device__ __forceinline__ bool settle_ties(const Measure& measure, float tie) {
    __shared__ int chunk, last;
    __shared__ int64_t before_chunk;
    const int n = (row_.chunks + kThreads - 1) / kThreads, first = thread_of() * n;
    // What the first i ties of chunk j add.
    const auto added = [&](int j, int64_t packed, int i) {
      if (measure.by_count) return static_cast<int64_t>(i);
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
    const Scanned<int64_t> adds = block_scan(mine);
    if (before_ + adds.total < measure.goal) return false;
    int64_t reached = before_ + adds.before;
#pragma unroll 1
    for (int j = first; j < first + n && j < row_.chunks; ++j) {
      const int64_t packed = row_.sums[j], more = ties_of(packed) ? added(j, packed, ties_of(packed)) : 0;
      if (reached < measure.goal && measure.goal <= reached + more) chunk = j, before_chunk = reached;
      reached += more;
    }
    sync_block();
    const int at = chunk;
    // Its ties: the first i of them, of which thread i - 1 looks at one number.
    const int64_t of_it = row_.sums[at];
    const int i = thread_of() + 1;
    const bool is_enough = i <= ties_of(of_it) && before_chunk + added(at, of_it, i) >= measure.goal;
    const int taken = block_reduce(is_enough ? i : kChunk, Smaller());
    const int place = at * kChunk + thread_of();
    const bool is_tie = row_.at(place) == tie;
    if (block_scan(static_cast<int>(is_tie)).before == taken - 1 && is_tie) last = place;
    team_.sync();  // the sums may still be read
#pragma unroll 1
    for (int j = first; team_.leads() && j < first + n && j < row_.chunks; ++j) {
      const int64_t packed = row_.sums[j];
      const int kept = j < at ? ties_of(packed) : j == at ? taken : 0;
      n_ties += kept;
      const int64_t each = kept ? light_weight(tie, row_.tops[j], row_.factor) : 0;
      row_.sums[j] = (packed & kWeights) + kept * each;
    }
    kept_ = sweep_.n_above() + block_sum(n_ties);
    cut_ = {tie, last};
    team_.sync();
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
    sweep_.keep_above(below_near);
    kept_ = sweep_.n_above() < kept_ ? sweep_.n_above() : kept_;
    cut_ = {near, INT32_MAX};
  }

  const Team team_;
  const Row<D>& row_;
  Desk& desk_;
  Candidates<D> candidates_;
  Sweep<D> sweep_;
  Edge cut_;
  int64_t kept_, before_ = 0;  // how much lies above the ranks of a sweep
  float unit_ = 1;             // of the amounts in bins
};

}  // namespace fastsample::cuda
