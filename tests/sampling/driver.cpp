// Draws the vectors that it reads from standard input on the CPU backend it was compiled with, without Python: with the
// instruction set that its argument names, or the best.
//
// In: for every vector V, n (int64); temperature, top_p, min_p (float); top_k (int32); V logits (float); n seeds, n
// streams, n positions (int64). Out: n tokens, then n kept counts (int64), for every vector.
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

template <class T>
static std::vector<T> read(size_t n) {
  std::vector<T> values(n);
  if (fread(values.data(), sizeof(T), n, stdin) != n) values.clear();
  return values;
}

int main(int argc, char** argv) {
  using namespace fastsample;
  for (const Worker* const* w = workers(); argc > 1 && *w; ++w) {
    if (!strcmp(argv[1], (*w)->name)) use(*w);
  }
  fprintf(stderr, "%s", worker()->name);
  while (true) {
    const auto sizes = read<int64_t>(2);
    if (sizes.empty()) return 0;
    const int64_t vocab = sizes[0], n = sizes[1];
    const auto f = read<float>(3);
    const auto top_k = read<int32_t>(1);
    const auto logits = read<float>(vocab);
    const auto seeds = read<int64_t>(n), streams = read<int64_t>(n), positions = read<int64_t>(n);
    std::vector<int64_t> tokens(n), kept(n), indices(n);
    std::vector<float> floats(4 * n);
    std::vector<int32_t> status(n);
    Call call = {};
    call.logits = logits.data();
    call.count = 1;
    call.rows = n;
    call.vocab = vocab;
    call.row_stride = vocab;
    call.temperature.value = f[0];
    call.top_p.value = f[1];
    call.min_p.value = f[2];
    call.top_k.value = top_k[0];
    call.seed.rows = seeds.data();
    call.stream = streams.data();
    call.position.rows = positions.data();
    call.indices = indices.data();
    call.tokens = tokens.data();
    call.stats = {&floats[0], &floats[n], &floats[2 * n], &floats[3 * n], kept.data(), status.data()};
    sample_rows(call, 2);
    fwrite(tokens.data(), 8, n, stdout);
    fwrite(kept.data(), 8, n, stdout);
  }
}
