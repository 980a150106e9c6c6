// The order of a row, (logit descending, index ascending), as integers.
#pragma once

#include "../contract.h"

namespace fastsample::FASTSAMPLE_ISA {

// float32 to an integer of the same order, and back; -0 and +0 are neighbours, which the callers allow for.
static inline int32_t rank(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
static inline float at_rank(int32_t rank) {
  const int32_t bits = rank < 0 ? rank ^ 0x7fffffff : rank;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline float next_above(float x) { return x == 0 ? 0x1p-149f : at_rank(rank(x) + 1); }
static inline float middle(float low, float high) {
  const int64_t a = rank(low), b = rank(high);
  return at_rank(static_cast<int32_t>(a + (b - a) / 2));
}

// Where a kept prefix ends: it keeps x > value, and x == value up to the token `index`.
struct Cut {
  float value = -__builtin_inff();
  int64_t index = INT64_MAX;
  bool keeps_all() const { return value == -__builtin_inff(); }
  bool keeps(float x, int64_t i) const { return x > value || (x == value && i <= index); }
};

// Sorts two parallel arrays into the order of the row. Shell's method: short arrays are what it is given, and it needs
// no memory; std::sort would be compiled for one instruction set and linked into all.
static inline void sort_tokens(float* x, int32_t* index, int64_t n) {
  constexpr int64_t kGaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
  for (const int64_t gap : kGaps) {
    for (int64_t i = gap; i < n; ++i) {
      const float xi = x[i];
      const int32_t ii = index[i];
      int64_t at = i;
      for (; at >= gap && (xi > x[at - gap] || (xi == x[at - gap] && ii < index[at - gap])); at -= gap) {
        x[at] = x[at - gap];
        index[at] = index[at - gap];
      }
      x[at] = xi;
      index[at] = ii;
    }
  }
}

}  // namespace fastsample::FASTSAMPLE_ISA
