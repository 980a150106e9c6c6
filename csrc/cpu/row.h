// Stage 2: from the statistics of a row's chunks to its token. Reads the few chunks that matter once more, from cache.
#pragma once

#include "filters.h"
#include "worker.h"

namespace fastsample::FASTSAMPLE_ISA {

// The weights of chunk j that the cut keeps, in index order.
template <Dtype D>
static void kept_weights(const Tokens<D>& row, int64_t j, float top, float factor, const Cut& cut, int32_t* w) {
  float x[kChunk];
  const auto* chunk = row.chunk(j);
  for (int v = 0; v < kVectors; ++v) {
    const F logits = Tokens<D>::at(chunk, v);
    store(x + v * kLanes, logits);
    store(w + v * kLanes, truncate(weigh(logits, set(top), set(factor))));
  }
  for (int i = 0; i < kChunk; ++i) w[i] = cut.keeps(x[i], j * kChunk + i) ? w[i] : 0;
}

template <Dtype D>
static Status why_invalid(const Tokens<D>& row) {
  float top = -__builtin_inff();
  for (int64_t j = 0; j < row.chunks; ++j) {
    float lanes[kChunk];
    for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes, Tokens<D>::at(row.chunk(j), v));
    for (const float x : lanes) {
      if (x != x) return kHoldsNan;
      top = x > top ? x : top;
    }
  }
  return top > kLargest ? kHoldsInfinity : top < -kLargest ? kNoFinite : kValid;
}

template <Dtype D>
static float value_at(const Tokens<D>& row, int64_t token) {
  float lanes[kLanes];
  store(lanes, Tokens<D>::at(row.chunk(token / kChunk), static_cast<int>(token % kChunk) / kLanes));
  return lanes[token % kLanes];
}

// chunk_scale() of every chunk, a vector at a time: p and r first, then p * 2^r in float64.
static void scale_chunks(int64_t chunks, float top, float factor, const Scratch& s) {
  const F from = set(top), c = set(factor);
  for (int64_t j = 0; j < chunks; j += kLanes) {
    if (j + kLanes > chunks) {
      for (; j < chunks; ++j) s.scale[j] = chunk_scale(s.top[j], top, factor);
      return;
    }
    const F tops = load(s.top + j);
    const F z = larger(set(kLowestS), (tops - from) * c), r = nearest(z);
    float p[kLanes];
    int32_t exponents[kLanes];
    store(p, only(at_least(tops, set(-kLargest)), polynomial(z - r)));
    store(exponents, truncate(r));
    for (int lane = 0; lane < kLanes; ++lane) s.scale[j + lane] = p[lane] * exponent(exponents[lane]);
  }
}

// The untouched row at temperature 1, from the moments of its chunks.
struct Raw {
  double log_sum = 0;  // log of the sum of e^(x - top)
  double entropy = 0, self_certainty = 0;
};
template <Dtype D>
static Raw raw_of(const Tokens<D>& row, float top, const Scratch& s) {
  double e = 0, ed = 0, down = 0;
  for (int64_t j = 0; j < row.chunks; ++j) {
    const Moments& m = s.moments[j];
    const double d = static_cast<double>(s.top[j]) - static_cast<double>(top), to_row = exp(d);
    down += static_cast<double>(m.down) + d * static_cast<double>(row.size(j));
    if (to_row == 0) continue;  // a forbidden chunk among them
    e += to_row * static_cast<double>(m.e);
    ed += to_row * (static_cast<double>(m.ed) + d * static_cast<double>(m.e));
  }
  const double vocab = static_cast<double>(row.vocab);
  Raw raw;
  raw.log_sum = log(e / (1 << kWeightBits));
  raw.entropy = raw.log_sum - ed / e;
  raw.self_certainty = raw.log_sum - down / vocab - log(vocab);
  return raw;
}

// A function of its own, so that the plain row's loop has the registers that it has without the other one.
template <Dtype D, bool kCanBeEdited>
__attribute__((noinline)) static bool weigh(const Call& call, const Tokens<D, kCanBeEdited>& row, int64_t b,
                                            int64_t first, int64_t last, const Scratch& s) {
  const float temperature = call.temperature[b];
  if (is_greedy(temperature) && !call.stats.logprob) return maximize_chunks(row, first, last, s);
  const float factor = inverse_temperature(temperature);
  return call.stats.logprob ? weigh_chunks<true>(row, factor, first, last, s)
                            : weigh_chunks<false>(row, factor, first, last, s);
}

template <Dtype D>
static void weigh_row(const Call& call, const void* logits, int64_t b, int64_t first, int64_t last, const Scratch& s,
                      bool* is_odd) {
  *is_odd = s.patches.at ? weigh(call, Tokens<D>(logits, call.vocab, s.patches), b, first, last, s)
                         : weigh(call, Tokens<D, false>(logits, call.vocab, s.patches), b, first, last, s);
}

// What has been drawn from a row.
struct Drawn {
  int64_t token = -1;
  double logprob = __builtin_nan("");
  int64_t kept = 0;
};

template <Dtype D>
static Drawn draw_greedy(const Tokens<D>& row, float top, const Scratch& s, float* probabilities) {
  int64_t j = 0;
  while (j < row.chunks - 1 && s.top[j] != top) ++j;
  float lanes[kChunk];
  for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes, Tokens<D>::at(row.chunk(j), v));
  int64_t i = 0;
  while (i < row.size(j) - 1 && lanes[i] != top) ++i;
  Drawn drawn = {j * kChunk + i, 0.0, 1};
  if (probabilities) {
    for (int64_t k = 0; k < row.vocab; ++k) probabilities[k] = k == drawn.token ? 1.0f : 0.0f;
  }
  return drawn;
}

// A chunk by its mass, then a token by its weight in the chunk. The last of either is taken in any case: a caller who
// writes to the logits meanwhile gets a wrong token, and none from outside of the row.
template <Dtype D>
static Drawn draw(const Tokens<D>& row, const Call& call, int64_t b, float factor, const Filters<D>& filters,
                  const Scratch& s) {
  const int64_t stream = call.stream ? call.stream[b] : b;
  const Noise noise = philox(static_cast<uint64_t>(call.seed[b]), static_cast<uint64_t>(stream),
                             static_cast<uint64_t>(call.position[b]));
  const int64_t total = filters.total_mass();
  const int64_t in_row = static_cast<int64_t>(high_product(noise.u1, static_cast<uint64_t>(total)));
  int64_t j = 0, of_chunk = mass(s.sum[0], s.scale[0]);
  for (int64_t sum = of_chunk; sum <= in_row && j < row.chunks - 1; sum += of_chunk) {
    ++j;
    of_chunk = mass(s.sum[j], s.scale[j]);
  }
  int32_t w[kChunk];
  kept_weights(row, j, s.top[j], factor, filters.cut(), w);
  const int64_t in_chunk =
      static_cast<int64_t>(high_product(noise.u2, static_cast<uint64_t>(static_cast<int64_t>(s.sum[j]))));
  int i = 0;
  for (int64_t sum = w[0]; sum <= in_chunk && i < row.size(j) - 1; sum += w[i]) ++i;
  const double p = (w[i] / s.sum[j]) * (static_cast<double>(of_chunk) / static_cast<double>(total));
  return {j * kChunk + i, call.stats.logprob ? log(p) : 0.0, filters.kept()};
}

template <Dtype D>
static void write_probabilities(const Tokens<D>& row, float factor, const Filters<D>& filters, const Scratch& s,
                                float* probabilities) {
  const double total = static_cast<double>(filters.total_mass());
  for (int64_t j = 0; j < row.chunks; ++j) {
    int32_t w[kChunk];
    const int64_t of_chunk = mass(s.sum[j], s.scale[j]);
    if (of_chunk) kept_weights(row, j, s.top[j], factor, filters.cut(), w);
    for (int64_t i = 0; i < row.size(j); ++i) {
      const double p = of_chunk ? static_cast<double>(of_chunk) / total * w[i] / s.sum[j] : 0.0;
      probabilities[j * kChunk + i] = static_cast<float>(p);
    }
  }
}

template <Dtype D>
static bool finish_row(const Call& call, const void* logits, int64_t b, bool is_odd, const Scratch& s) {
  const Tokens<D> row(logits, call.vocab, s.patches);
  float* probabilities = call.probabilities ? call.probabilities + b * call.vocab : nullptr;
  float top = s.top[0];
  for (int64_t j = 1; j < row.chunks; ++j) top = s.top[j] > top ? s.top[j] : top;
  if (is_odd || !(top >= -kLargest && top <= kLargest)) {
    write_invalid(call, b, why_invalid(row));
    return false;
  }
  if (!is_in_range(call.temperature[b], call.top_k[b], call.top_p[b], call.min_p[b])) {
    write_invalid(call, b, kOutOfRange);
    return false;
  }
  const Raw raw = call.stats.logprob ? raw_of(row, top, s) : Raw();
  Drawn drawn;
  if (is_greedy(call.temperature[b])) {
    drawn = draw_greedy(row, top, s, probabilities);
  } else {
    const float factor = inverse_temperature(call.temperature[b]);
    scale_chunks(row.chunks, top, factor, s);
    Filters<D> filters(row, factor, top, s);
    filters.apply(call.top_k[b], call.top_p[b], call.min_p[b]);
    if (probabilities) {
      write_probabilities(row, factor, filters, s, probabilities);
    } else {
      drawn = draw(row, call, b, factor, filters, s);
    }
  }
  if (call.tokens) call.tokens[b] = drawn.token;
  if (call.stats.logprob) {
    const double below_top = static_cast<double>(value_at(row, drawn.token)) - static_cast<double>(top);
    call.stats.logprob[b] = static_cast<float>(drawn.logprob);
    call.stats.raw_logprob[b] = static_cast<float>(below_top - raw.log_sum);
    call.stats.entropy[b] = static_cast<float>(raw.entropy);
    call.stats.self_certainty[b] = static_cast<float>(raw.self_certainty);
    call.stats.kept[b] = drawn.kept;
    call.stats.status[b] = kValid;
  }
  return true;
}

template <Dtype D>
static constexpr Worker::Of kWorkerOf = {weigh_row<D>, finish_row<D>};

}  // namespace fastsample::FASTSAMPLE_ISA
