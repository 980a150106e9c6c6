// Several threads call the CPU backend at once, each with one thread and with several, on rows that they share. What
// each draws must be what one caller alone drew. Built with a sanitizer for races; the argument is a seed.
//
// Out: how many draws were compared. Exit code 1: a token differed.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

using namespace fastsample;

struct Rows {
  std::vector<float> logits;
  int64_t count, vocab;
  float temperature, top_p, min_p;
  int32_t top_k;

  std::vector<int64_t> draw(int threads) const {
    std::vector<int64_t> tokens(count), kept(count), indices(count), seeds(count), positions(count);
    std::vector<float> floats(4 * count);
    std::vector<int32_t> status(count);
    for (int64_t b = 0; b < count; ++b) seeds[b] = positions[b] = indices[b] = b;
    Call call = {};
    call.logits = logits.data();
    call.count = call.rows = count;
    call.vocab = call.row_stride = vocab;
    call.temperature.value = temperature;
    call.top_k.value = top_k;
    call.top_p.value = top_p;
    call.min_p.value = min_p;
    call.seed.rows = seeds.data();
    call.stream = indices.data();
    call.position.rows = positions.data();
    call.indices = indices.data();
    call.tokens = tokens.data();
    call.stats = {&floats[0], &floats[count], &floats[2 * count], &floats[3 * count], kept.data(), status.data()};
    sample_rows(call, threads);
    return tokens;
  }
};

int main(int, char** argv) {
  std::mt19937_64 random(std::strtoull(argv[1], nullptr, 10));
  const auto one_of = [&](auto... values) {
    const decltype((values + ...)) all[] = {values...};
    return all[random() % sizeof...(values)];
  };
  std::atomic<int64_t> compared{0}, different{0};
  for (int round = 0; round < 20; ++round) {
    Rows rows;
    rows.count = one_of(1, 2, 7, 33);
    rows.vocab = one_of(1, 300, 5000, 20000);
    rows.temperature = one_of(0.0f, 0.5f, 1.0f, 3.0f);
    rows.top_p = one_of(0.5f, 0.9f, 1.0f);
    rows.min_p = one_of(0.0f, 0.0f, 0.1f);
    rows.top_k = one_of(0, 0, 1, 50);
    std::normal_distribution<float> normal(0, one_of(0.1f, 2.0f, 20.0f));
    for (int64_t i = 0; i < rows.count * rows.vocab; ++i) rows.logits.push_back(normal(random));
    const std::vector<int64_t> alone = rows.draw(1);
    std::vector<std::thread> callers;
    for (int threads : {1, 2, 3, 5}) {
      callers.emplace_back([&, threads] {
        for (int call = 0; call < 3; ++call) {
          const std::vector<int64_t> drawn = rows.draw(threads);
          for (int64_t b = 0; b < rows.count; ++b) different += drawn[b] != alone[b];
          compared += rows.count;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  printf("%lld\n", static_cast<long long>(compared));
  return different != 0;
}
