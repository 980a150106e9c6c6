// Guesses of where a filter cuts the row: a bracket [low, high) of logits that should hold the cut. A guess decides
// nothing: `Filters::close` checks it with integers and looks elsewhere where it was wrong.
//
// Both ways fill one histogram of the row's upper logits, kBins wide:
// - walk: chunks by descending maximum, until the bins above the next unread one hold the target. Reads what the cut
// needs.
// - sample: every eighth chunk, for flat rows, where most chunks would have to be walked.
#pragma once

#include "candidates.h"

namespace fastsample::FASTSAMPLE_ISA {

template <Dtype D>
class Estimate {
 public:
  Estimate(const Tokens<D>& row, float factor, float top, const Scratch& scratch)
      : row_(row), factor_(factor), top_(top), s_(scratch) {}

  // Where the mass of the tokens from the top reaches `target` of `total`; tokens below `limit` count for nothing.
  Bracket by_mass(int64_t target, int64_t total, const Cut& limit) {
    // All tokens below `floor` together weigh less than what may be missing from the total.
    const double missing = total - target > 1 ? static_cast<double>(total - target) : 1.0;
    const double depth = log2(missing / (static_cast<double>(1 << kWeightBits) * static_cast<double>(row_.vocab)));
    span(static_cast<float>(static_cast<double>(top_) + depth / factor_), limit.value);
    Bracket guess;
    if (walk(static_cast<double>(target), &guess)) return guess;
    return sample(Measure::kMass, static_cast<double>(total - target));
  }

  // Where the number of tokens from the top reaches `target`.
  Bracket by_count(int64_t target) {
    float lowest = top_;
    for (int64_t i = 0; i < sampled(); ++i) {
      const auto* chunk = row_.chunk(sampled_chunk(i));
      F low = set(lowest);
      for (int v = 0; v < kVectors; ++v) {
        const F x = Tokens<D>::at(chunk, v);
        low = smaller(pick(at_least(x, set(-kLargest)), x, low), low);
      }
      lowest = -max_of(set(0.0f) - low);
    }
    span(lowest, -kLargest);
    return sample(Measure::kCount, static_cast<double>(row_.vocab - target));
  }

 private:
  // Bin b holds the logits in (top - (b + 1) / scale, top - b / scale].
  void span(float floor, float limit) {
    floor_ = floor > limit ? floor : limit;
    if (!(floor_ >= -kLargest)) floor_ = -kLargest;
    const double depth = static_cast<double>(top_) - static_cast<double>(floor_);
    scale_ = static_cast<float>(depth > 0x1p-100 ? kBins / depth : 0x1p100);
  }
  float edge(int bin) const {
    const double x = static_cast<double>(top_) - static_cast<double>(bin) / static_cast<double>(scale_);
    return x > -kLargest ? static_cast<float>(x) : -kLargest;
  }
  // A little wider than the bins [first, last): a token's bin is rounded.
  Bracket around(int first, int last) const {
    const float high = first == 0 ? __builtin_inff() : next_above(edge(first));
    return {last >= kBins ? floor_ : edge(last), high};
  }

  int bin_of(float x) const {
    const float b = (top_ - x) * scale_;
    return b < kBins ? static_cast<int>(b) : kBins;
  }

  // Adds the tokens >= floor of a chunk to the histogram.
  void scatter(int64_t j, float floor) {
    float x[kChunk + kSlack];
    const auto* chunk = row_.chunk(j);
    int n = 0;
    for (int v = 0; v < kVectors; ++v) {  // no branch: which vectors hold such a token cannot be foretold
      const F logits = Tokens<D>::at(chunk, v);
      n += pack(x + n, at_least(logits, set(floor)), logits);
    }
    const F from = set(s_.top[j]), c = set(factor_), top = set(top_), scale = set(scale_);
    const F to_row = set(static_cast<float>(s_.scale[j]));
    for (int i = 0; i < n; i += kLanes) {
      int32_t bin[kLanes];
      float mass[kLanes];
      const F logits = load(x + i);
      store(mass, weigh(logits, from, c) * to_row);
      store(bin, truncate(smaller(set(static_cast<float>(kBins)), (top - logits) * scale)));
      for (int lane = 0; lane < kLanes && i + lane < n; ++lane) {
        s_.mass[bin[lane]] += mass[lane];
        ++s_.count[bin[lane]];
      }
    }
  }

  void clear() {
    for (int b = 0; b <= kBins; ++b) {
      s_.mass[b] = 0;
      s_.count[b] = 0;
    }
  }

  static constexpr double kNear = 4;  // powers of two; 3 to 6 cost the same on SmolLM2's rows

  // Whether few chunks were enough; the guess then is one bin.
  bool walk(double target, Bracket* guess) {
    uint32_t* start = s_.count;  // of a bin's chunks in `order`; free until the tokens are counted
    clear();
    int64_t reach = 0;
    for (int64_t j = 0; j < row_.chunks; ++j) {
      if (s_.top[j] >= floor_) ++start[bin_of(s_.top[j])], ++reach;
    }
    uint32_t sum = 0;
    for (int b = 0; b <= kBins; ++b) {
      const uint32_t n = start[b];
      start[b] = sum;
      sum += n;
    }
    for (int64_t j = 0; j < row_.chunks; ++j) {
      if (s_.top[j] >= floor_) s_.order[start[bin_of(s_.top[j])]++] = static_cast<uint32_t>(j);
    }
    // A chunk's whole mass bounds what it adds, so these must be read in any case.
    const int64_t enough = row_.chunks / 4 + 8;
    double bound = 0;
    int64_t needed = 0;
    while (needed < reach && bound < target) {
      const uint32_t j = s_.order[needed++];
      bound += s_.sum[j] * s_.scale[j];
    }
    if (needed > enough) return false;
    // The cut is rarely far below the last of them: tokens further down are counted only if it is.
    const float last = s_.top[s_.order[needed > 0 ? needed - 1 : 0]];
    const float near = static_cast<float>(static_cast<double>(last) - kNear / static_cast<double>(factor_));
    return (near > floor_ && descend(near, target, reach, 2 * enough, guess)) ||
           descend(floor_, target, reach, 2 * enough, guess);
  }

  // Reads the chunks in order, their tokens down to `floor`, until the bins above the next chunk hold the target.
  bool descend(float floor, double target, int64_t reach, int64_t most, Bracket* guess) {
    clear();
    const int last = bin_of(floor);
    double sum = 0;
    int64_t next = 0;
    int bin_of_next = 0;
    for (int b = 0; b < last || b == 0; ++b) {
      for (; bin_of_next == b; bin_of_next = next < reach ? bin_of(s_.top[s_.order[next]]) : kBins + 1) {
        scatter(s_.order[next++], floor);
      }
      sum += static_cast<double>(s_.mass[b]);
      if (sum >= target) {
        *guess = around(b, b + 1);
        return true;
      }
      if (next > most) return false;
    }
    return false;
  }

  int64_t sampled() const {  // witness: bench/sampling.py on flat rows; fewer miss the bracket, more cost more
    const int64_t eighth = row_.chunks / 8;
    return eighth > 16 ? eighth : row_.chunks < 16 ? row_.chunks : 16;
  }
  int64_t sampled_chunk(int64_t i) const { return i * row_.chunks / sampled(); }

  // The lower part of a flat row is alike in all chunks, so that is what is scaled up: `tail` is the measure below the
  // cut.
  Bracket sample(Measure measure, double tail) {
    clear();
    const int64_t n = sampled();
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = sampled_chunk(i);
      total += measure == Measure::kMass ? s_.sum[j] * s_.scale[j] : static_cast<double>(row_.size(j));
      if (s_.top[j] >= floor_) scatter(j, floor_);
    }
    const double wanted = tail * static_cast<double>(n) / static_cast<double>(row_.chunks);
    // Tokens sampled below the cut give the guess its width: three standard deviations of their number.
    double above = 0, tokens = static_cast<double>(n) * kChunk;
    int cut = 0;
    while (cut < kBins && total - above - in_bin(measure, cut) > wanted) {
      above += in_bin(measure, cut);
      tokens -= s_.count[cut++];
    }
    const double slack = 3.5 * wanted / sqrt(tokens > 4 ? tokens : 4);
    // The cut lies in bin `cut`; widen to both sides while the measure passed over is within the slack.
    const double limit = 0.75 * kMaxCandidates * static_cast<double>(n) / static_cast<double>(row_.chunks);
    int first = cut, last = cut + 1;
    double up = 0, down = 0, inside = s_.count[cut < kBins ? cut : kBins];
    for (bool is_wider = true; is_wider && inside < limit;) {
      is_wider = false;
      if (first > 0 && up < slack) {
        up += in_bin(measure, --first);
        inside += s_.count[first];
        is_wider = true;
      }
      if (last < kBins && down < slack) {
        down += in_bin(measure, last);
        inside += s_.count[last++];
        is_wider = true;
      }
    }
    return around(first, last);
  }
  double in_bin(Measure measure, int b) const {
    return measure == Measure::kMass ? static_cast<double>(s_.mass[b]) : static_cast<double>(s_.count[b]);
  }

  const Tokens<D>& row_;
  const float factor_, top_;
  const Scratch& s_;
  float floor_ = 0, scale_ = 0;
};

}  // namespace fastsample::FASTSAMPLE_ISA
