// The tokens of a bracket, and how many of them the prefix still takes: the last, exact step of a filter.
#pragma once

#include "sweep.h"

namespace fastsample::FASTSAMPLE_ISA {

enum class Measure { kCount, kMass };  // what a filter adds up: tokens, or their mass

struct Reached {
  int64_t measure = 0;  // of the whole prefix
  int64_t taken = 0;    // candidates in it
};

// The mass of all kept tokens.
static int64_t mass_of(int64_t chunks, const Scratch& s) {
  int64_t total = 0;
  for (int64_t j = 0; j < chunks; ++j) total += mass(s.sum[j], s.scale[j]);
  return total;
}

template <Dtype D>
class Candidates {
 public:
  Candidates(const Tokens<D>& row, float factor, const Scratch& scratch) : row_(row), factor_(factor), s_(scratch) {}

  // Takes candidates [first, last), which are in the order of the row, until the measure reaches the target.
  Reached add(int64_t first, int64_t last, Measure measure, int64_t target, int64_t reached, Cut* cut) const {
    Reached r = {reached, 0};
    for (int64_t i = first; i < last && r.measure < target; ++i, ++r.taken) {
      const int64_t j = s_.candidate_index[i] / kChunk;
      const int64_t before = mass(s_.sum[j], s_.scale[j]);
      s_.sum[j] += weight(s_.candidate[i], s_.top[j], factor_);
      r.measure += measure == Measure::kCount ? 1 : mass(s_.sum[j], s_.scale[j]) - before;
      *cut = {s_.candidate[i], s_.candidate_index[i]};
    }
    return r;
  }

  // The same for candidates in any order. Where they are many, an estimate says which few of them have to be sorted.
  Reached close(const Swept& found, Measure measure, int64_t target, int64_t above, Cut* cut) const {
    const int64_t n = found.inside;
    int64_t same = 0, lower = n;  // [0, same) are taken, [same, lower) hold the cut, [lower, n) are left out
    int64_t reached = above;
    if (n > 64) {
      partition(found, measure, static_cast<double>(target - above), &same, &lower);
      add_unsorted(0, same, 1);
      reached = measure == Measure::kCount ? above + same : mass_of(row_.chunks, s_);
    }
    if (reached >= target) {  // the estimate was off: sort them all
      add_unsorted(0, same, -1);
      same = 0;
      lower = n;
      reached = above;
    }
    sort_tokens(s_.candidate + same, s_.candidate_index + same, lower - same);
    Reached r = add(same, lower, measure, target, reached, cut);
    if (r.measure < target) {
      sort_tokens(s_.candidate + lower, s_.candidate_index + lower, n - lower);
      const int64_t taken = r.taken;
      r = add(lower, n, measure, target, r.measure, cut);
      r.taken += taken;
    }
    r.taken += same;
    return r;
  }

 private:
  static constexpr int kFine = 256;  // bins over the bracket

  // Adds (or takes back) candidates whatever their order.
  void add_unsorted(int64_t first, int64_t last, double sign) const {
    for (int64_t i = first; i < last; i += kLanes) {
      const int n = last - i < kLanes ? static_cast<int>(last - i) : kLanes;
      float x[kLanes], from[kLanes];
      int32_t w[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        x[lane] = lane < n ? s_.candidate[i + lane] : -__builtin_inff();
        from[lane] = lane < n ? s_.top[s_.candidate_index[i + lane] / kChunk] : 0.0f;
      }
      store(w, truncate(weigh(load(x), load(from), set(factor_))));
      for (int lane = 0; lane < n; ++lane) s_.sum[s_.candidate_index[i + lane] / kChunk] += sign * w[lane];
    }
  }

  // Moves the candidates of the fine bin in which `missing` is reached to [same, lower), higher ones before it.
  void partition(const Swept& found, Measure measure, double missing, int64_t* same, int64_t* lower) const {
    const int64_t n = found.inside;
    const float top = found.largest, scale = (kFine - 1) / (found.largest - found.smallest);
    const auto bin_of = [&](float x) {
      const float b = (top - x) * scale;
      return b < kFine ? static_cast<int>(b) : kFine - 1;
    };
    if (!(scale > 0 && scale < __builtin_inff())) return;
    int32_t in_bin[kFine] = {};
    for (int64_t i = 0; i < n; ++i) ++in_bin[bin_of(s_.candidate[i])];
    // A token's mass follows from its logit, so the tokens of a bin are alike.
    const int64_t j = s_.candidate_index[0] / kChunk;
    const double c = measure == Measure::kCount ? 0 : static_cast<double>(factor_);
    const double first_mass =
        s_.scale[j] * exp2(kWeightBits + c * (static_cast<double>(top) - static_cast<double>(s_.top[j])));
    const double unit = measure == Measure::kCount ? 1.0 : first_mass, per_bin = exp2(-c / static_cast<double>(scale));
    int cut = 0;
    double sum = 0, of_bin = unit * sqrt(per_bin);
    for (; cut < kFine - 1; ++cut, of_bin *= per_bin) {
      sum += in_bin[cut] * of_bin;
      if (sum >= missing) break;
    }
    const auto swap = [&](int64_t a, int64_t b) {
      const float x = s_.candidate[a];
      const int32_t index = s_.candidate_index[a];
      s_.candidate[a] = s_.candidate[b];
      s_.candidate_index[a] = s_.candidate_index[b];
      s_.candidate[b] = x;
      s_.candidate_index[b] = index;
    };
    int64_t first = 0, last = n;
    for (int64_t i = 0; i < last;) {
      const int bin = bin_of(s_.candidate[i]);
      if (bin < cut) {
        swap(i++, first++);
      } else if (bin > cut) {
        swap(i, --last);
      } else {
        ++i;
      }
    }
    *same = first;
    *lower = last;
  }

  const Tokens<D>& row_;
  const float factor_;
  const Scratch& s_;
};

}  // namespace fastsample::FASTSAMPLE_ISA
