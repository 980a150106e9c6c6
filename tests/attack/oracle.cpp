// The sampling contract once more, written from its text and sharing no line with csrc/: what millions of draws are
// compared with. It sorts every row, and draws from one filtered row as often as it is asked.
//
// Built by oracle.py with -ffp-contract=off: a product and a sum are fused where the contract says so, and nowhere
// else.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t CHUNK = 256;

// 2^z as a float64: the polynomial in float32, the power of two exact.
double power(float z) {
  const float whole = std::nearbyint(z), f = z - whole;
  const float coefficients[] = {0x1.3cea74p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f, 1.0f};
  float p = 0x1.5bb9e6p-10f;
  for (const float a : coefficients) p = std::fma(p, f, a);
  return std::ldexp(static_cast<double>(p), static_cast<int>(whole));
}

void philox(uint64_t key, uint64_t low, uint64_t high, uint64_t* first, uint64_t* second) {
  uint32_t counter[4] = {uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)};
  uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t x = uint64_t(0xD2511F53) * counter[0], y = uint64_t(0xCD9E8D57) * counter[2];
    const uint32_t next[4] = {uint32_t(y >> 32) ^ counter[1] ^ k[0], uint32_t(y), uint32_t(x >> 32) ^ counter[3] ^ k[1],
                              uint32_t(x)};
    std::copy(next, next + 4, counter);
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  *first = counter[0] | uint64_t(counter[1]) << 32;
  *second = counter[2] | uint64_t(counter[3]) << 32;
}

// The first place whose running sum exceeds u * total / 2^64; total is the last of the sums.
int64_t place(const std::vector<int64_t>& sums, uint64_t u) {
  const auto at = static_cast<int64_t>((static_cast<unsigned __int128>(u) * static_cast<uint64_t>(sums.back())) >> 64);
  return std::upper_bound(sums.begin(), sums.end(), at) - sums.begin();
}

struct Row {
  const float* x;
  int64_t vocab;
  float top;
  std::vector<float> tops;
  std::vector<double> scales;
  std::vector<int64_t> weights, chunks, masses;  // of all tokens; the kept weight of a chunk, and its mass

  Row(const float* x, int64_t vocab) : x(x), vocab(vocab), top(-INFINITY) {
    for (int64_t i = 0; i < vocab; ++i) top = std::max(top, x[i]);
  }

  int64_t mass_of(int64_t j) const { return static_cast<int64_t>(static_cast<double>(chunks[j]) * scales[j]); }

  void weigh(float c) {
    const int64_t count = (vocab + CHUNK - 1) / CHUNK;
    tops.assign(count, -INFINITY);
    scales.assign(count, 0);
    weights.assign(vocab, 0);
    for (int64_t i = 0; i < vocab; ++i) tops[i / CHUNK] = std::max(tops[i / CHUNK], x[i]);
    for (int64_t j = 0; j < count; ++j) {
      if (tops[j] == -INFINITY) continue;
      const float down = (tops[j] - top) * c;
      scales[j] = power(std::max(down, -64.0f));
      for (int64_t i = j * CHUNK; i < std::min(vocab, (j + 1) * CHUNK); ++i) {
        if (x[i] == -INFINITY) continue;
        const float z = (x[i] - tops[j]) * c;
        weights[i] = static_cast<int64_t>(power(std::max(z, -32.0f)) * 0x1p30);
      }
    }
  }

  // Leaves the kept weights in `weights`, `chunks` and `masses`; returns how many tokens are kept.
  int64_t filter(float c, int64_t top_k, float top_p, float min_p, std::vector<int32_t>& order) {
    order.resize(vocab);
    for (int64_t i = 0; i < vocab; ++i) order[i] = static_cast<int32_t>(i);
    std::sort(order.begin(), order.end(), [this](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
    int64_t kept = top_k == 0 ? vocab : std::min(top_k, vocab);
    if (top_p < 1) {
      int64_t total = 0;
      chunks.assign(tops.size(), 0);
      for (int64_t i = 0; i < kept; ++i) chunks[order[i] / CHUNK] += weights[order[i]];
      for (size_t j = 0; j < tops.size(); ++j) total += mass_of(j);
      const double target = std::ceil(static_cast<double>(total) * static_cast<double>(top_p));
      chunks.assign(tops.size(), 0);
      int64_t reached = 0, n = 0;
      while (n < kept && (n == 0 || static_cast<double>(reached) < target)) {
        const int64_t j = order[n] / CHUNK;
        reached -= mass_of(j);
        chunks[j] += weights[order[n++]];
        reached += mass_of(j);
      }
      kept = n;
    }
    if (min_p > 0) {
      const float least = static_cast<float>(std::log2(static_cast<double>(min_p)));
      int64_t n = 0;
      while (n < kept && (x[order[n]] - top) * c >= least) ++n;
      kept = std::max<int64_t>(n, 1);
    }
    for (int64_t i = kept; i < vocab; ++i) weights[order[i]] = 0;
    chunks.assign(tops.size(), 0);
    for (int64_t i = 0; i < vocab; ++i) chunks[i / CHUNK] += weights[i];
    masses.assign(tops.size(), 0);
    int64_t sum = 0;
    for (size_t j = 0; j < tops.size(); ++j) masses[j] = sum += mass_of(j);
    for (size_t j = 0; j < tops.size(); ++j) {
      const int64_t from = j * CHUNK, to = std::min(vocab, from + CHUNK);
      for (int64_t i = from + 1; i < to; ++i) weights[i] += weights[i - 1];
    }
    return kept;
  }
};

int status_of(const Row& row) {
  for (int64_t i = 0; i < row.vocab; ++i) {
    if (std::isnan(row.x[i])) return 1;
  }
  return row.top == INFINITY ? 2 : row.top == -INFINITY ? 3 : 0;
}

}  // namespace

// `groups` rows x with one set of parameters each; the draws members[starts[g] ... starts[g + 1] - 1] are group g's.
// Every array of draws is indexed by member. Fills tokens and kept; -1 and 0 of an invalid row.
extern "C" void draw(const float* logits, int64_t vocab, int64_t groups, const int64_t* rows, const int64_t* starts,
                     const int64_t* members, const float* temperature, const int32_t* top_k, const float* top_p,
                     const float* min_p, const int64_t* seed, const int64_t* stream, const int64_t* position,
                     int64_t* tokens, int64_t* kept) {
  std::vector<int32_t> order;
  std::vector<int64_t> sums;
  for (int64_t g = 0; g < groups; ++g) {
    Row row(logits + rows[g] * vocab, vocab);
    const bool is_invalid = status_of(row) != 0, is_greedy = temperature[g] == 0;
    int64_t count = is_invalid ? 0 : 1, best = -1;
    if (!is_invalid && is_greedy) best = std::find(row.x, row.x + vocab, row.top) - row.x;
    if (!is_invalid && !is_greedy) {
      const double exact = 1.4426950408889634 / static_cast<double>(temperature[g]);
      const float c = static_cast<float>(std::min(std::max(exact, 0x1p-126), 0x1.fffffep127));
      row.weigh(c);
      count = row.filter(c, top_k[g], top_p[g], min_p[g], order);
    }
    for (int64_t m = starts[g]; m < starts[g + 1]; ++m) {
      const int64_t b = members[m];
      kept[b] = count;
      tokens[b] = best;
      if (is_invalid || is_greedy) continue;
      uint64_t u1, u2;
      philox(uint64_t(seed[b]), uint64_t(position[b]), uint64_t(stream[b]), &u1, &u2);
      const int64_t from = place(row.masses, u1) * CHUNK;
      sums.assign(row.weights.begin() + from, row.weights.begin() + std::min(vocab, from + CHUNK));
      tokens[b] = from + place(sums, u2);
    }
  }
}
