// top_k, top_p and min_p, exactly: where the kept prefix of (logit descending, index ascending) ends.
//
// Every filter leaves the sums of the kept weights in s.sum, so that the draw needs to read one chunk.
#pragma once

#include "candidates.h"
#include "estimate.h"

namespace fastsample::FASTSAMPLE_ISA {

template <Dtype D>
class Filters {
 public:
  // `scratch` holds the row's tops, sums and scales.
  Filters(const Tokens<D>& row, float factor, float top, const Scratch& scratch)
      : row_(row), factor_(factor), top_(top), s_(scratch), kept_(row.vocab) {}

  const Cut& cut() const { return cut_; }
  int64_t kept() const { return kept_; }  // tokens; forbidden ones count while nothing has cut them off

  void apply(int64_t top_k, float top_p, float min_p) {
    const bool has_top_k = top_k > 0 && top_k < row_.vocab;
    bool is_done = false;
    if (has_top_k && top_k <= row_.chunks && top_k <= kMaxCandidates / 4) is_done = keep_few(top_k, top_p);
    if (!is_done) {
      if (has_top_k) keep_count(top_k);
      if (top_p < 1) keep_mass(top_p);
    }
    if (min_p > 0) keep_near(min_p);
  }

  // The mass of all kept tokens.
  int64_t total_mass() const { return total_ >= 0 ? total_ : mass_of(row_.chunks, s_); }

 private:
  // A small k: the k-th largest chunk maximum is a lower bound of the k-th logit, so few tokens reach it. False if not.
  bool keep_few(int64_t k, float top_p) {
    const float low = chunk_bound(k);
    if (!(low >= -kLargest)) return false;
    const Swept found = sweep(row_, factor_, {low, __builtin_inff()}, Cut(), s_);
    if (!found.holds_all()) {
      sweep(row_, factor_, {-kLargest, -kLargest}, Cut(), s_);  // the sums of the whole chunks again
      return false;
    }
    Candidates<D> candidates(row_, factor_, s_);
    sort_tokens(s_.candidate, s_.candidate_index, found.inside);
    kept_ = candidates.add(0, found.inside, Measure::kCount, k, 0, &cut_).taken;
    if (top_p < 1) {
      const int64_t target = top_p_target(total_mass(), top_p);
      for (int64_t j = 0; j < row_.chunks; ++j) s_.sum[j] = 0;
      const Reached reached = candidates.add(0, kept_, Measure::kMass, target, 0, &cut_);
      kept_ = reached.taken;
      total_ = reached.measure;
    }
    return true;
  }

  // A logit that at least k chunk maxima reach, and not many more.
  float chunk_bound(int64_t k) const {
    float low = -__builtin_inff(), high = top_;
    if (reaching(high) >= k) return high;
    while (true) {
      const float mid = middle(low, high);
      if (!(mid > low)) return low;
      const int64_t n = reaching(mid);
      if (n >= k && n <= k + k / 8) return mid;
      (n >= k ? low : high) = mid;
    }
  }
  int64_t reaching(float x) const {
    int64_t n = 0;
    for (int64_t j = 0; j < row_.chunks; ++j) n += s_.top[j] >= x;
    return n;
  }

  void keep_count(int64_t k) {
    close(Measure::kCount, k, Estimate<D>(row_, factor_, top_, s_).by_count(k));
    kept_ = k;
  }

  void keep_mass(float top_p) {
    const int64_t total = total_mass(), target = top_p_target(total, top_p);
    close(Measure::kMass, target, Estimate<D>(row_, factor_, top_, s_).by_mass(target, total, cut_));
  }

  // min_p is a bound on the logit: the smallest that is near enough to the row's maximum.
  void keep_near(float min_p) {
    const float threshold = min_p_threshold(min_p);
    float low = -kLargest, high = top_;
    if (below(low, top_, factor_) >= threshold) {
      high = low;
    } else {
      for (float mid; (mid = middle(low, high)) > low;) (below(mid, top_, factor_) >= threshold ? high : low) = mid;
    }
    if (!(high > cut_.value)) return;  // another filter cut higher
    kept_ = sweep(row_, factor_, {high, high}, Cut(), s_).above;
    total_ = -1;
    cut_ = {high, INT64_MAX};
  }

  // Closes the prefix where its measure reaches `target`, within the cut that is in force. Every pass of the loop is
  // exact and leaves a smaller range for the cut, so a bad guess costs time and never a wrong token.
  void close(Measure measure, int64_t target, Bracket guess) {
    const Cut limit = cut_;
    Candidates<D> candidates(row_, factor_, s_);
    float known_low = limit.value >= -kLargest ? limit.value : -kLargest;  // the tokens from here up reach the target
    float known_high = __builtin_inff();                                   // those from here up do not
    Bracket b = {guess.low > known_low ? guess.low : known_low, guess.high};
    if (!(b.high > b.low)) b.high = next_above(b.low);
    while (true) {
      const Swept found = sweep(row_, factor_, b, limit, s_);
      const int64_t above = measure == Measure::kCount ? found.above : total_mass();
      if (above >= target) {  // the cut is higher
        known_low = b.high;
        b = {known_low, known_high < __builtin_inff() ? known_high : raised(b)};
        continue;
      }
      known_high = b.high;
      Reached reached;
      if (found.holds_all()) {
        reached = candidates.close(found, measure, target, above, &cut_);
      } else if (found.smallest == found.largest) {
        reached = close_among_ties(measure, target, above, found.smallest, limit);
      } else {  // too many to rank: halve
        known_high = next_above(found.largest);
        const float mid = middle(found.smallest, known_high);
        b = {found.smallest, mid > found.smallest ? mid : next_above(found.smallest)};
        continue;
      }
      kept_ = found.above + reached.taken;
      if (reached.measure >= target) {
        if (measure == Measure::kMass) total_ = reached.measure;
        return;
      }
      if (!(b.low > known_low)) {  // top_k of more tokens than are finite: nothing is cut off
        cut_ = limit;
        return;
      }
      known_high = b.low;
      b = {lowered(b, known_low), known_high};
    }
  }

  static float raised(Bracket b) {
    const float high = b.high + 4 * (b.high - b.low);
    return high > b.high ? high : __builtin_inff();
  }
  static float lowered(Bracket b, float known_low) {
    const float width = b.high < __builtin_inff() ? b.high - b.low : 1.0f;
    const float low = b.low - 4 * width;
    return low < b.low && low > known_low ? low : known_low;
  }

  // More tokens of one value than can be ranked: they count in the order of their indices, a chunk at a time.
  Reached close_among_ties(Measure measure, int64_t target, int64_t above, float value, const Cut& limit) {
    const auto step = [&](int64_t j, int64_t n) {  // what n ties add to chunk j
      if (measure == Measure::kCount) return n;
      const double w = weight(value, s_.top[j], factor_);
      return mass(s_.sum[j] + static_cast<double>(n) * w, s_.scale[j]) - mass(s_.sum[j], s_.scale[j]);
    };
    Reached reached = {above, 0};
    for (int64_t j = 0; j < row_.chunks && reached.measure < target; ++j) {
      if (!(s_.top[j] >= value)) continue;
      float lanes[kChunk];
      for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes, Tokens<D>::at(row_.chunk(j), v));
      int64_t ties = 0, last = -1;
      for (int64_t i = 0; i < kChunk && reached.measure + step(j, ties) < target; ++i) {
        if (lanes[i] == value && limit.keeps(value, j * kChunk + i)) ++ties, last = j * kChunk + i;
      }
      reached.measure += step(j, ties);
      reached.taken += ties;
      s_.sum[j] += static_cast<double>(ties) * weight(value, s_.top[j], factor_);
      if (last >= 0) cut_ = {value, last};
    }
    return reached;
  }

  const Tokens<D>& row_;
  const float factor_, top_;
  const Scratch& s_;
  Cut cut_;
  int64_t kept_;
  int64_t total_ = -1;  // where a filter has left it
};

}  // namespace fastsample::FASTSAMPLE_ISA
