// The floor of the bench: what any softmax over a row must do, as two plain passes that the compiler vectorises.
//
// Compiled by bench/peers.py with -O3 -march=native -ffast-math, which exact code may not use.
#include <cmath>
#include <cstdint>

extern "C" float max_and_sum(const float* rows, int64_t count, int64_t vocab) {
  float result = 0;
  for (int64_t b = 0; b < count; ++b) {
    const float* x = rows + b * vocab;
    float top = x[0];
    for (int64_t i = 1; i < vocab; ++i) top = x[i] > top ? x[i] : top;
    float sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += expf(x[i] - top);
    result += sum;
  }
  return result;
}
