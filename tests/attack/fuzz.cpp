// libFuzzer's entry: bytes become one call of the CPU backend, as the binding could be given it. Every instruction set
// must stay inside the memory that the call says it has, end, and give the same tokens, whatever the parameters are.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

using namespace fastsample;

namespace {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  template <class T>
  T next() {
    T value = {};
    const size_t taken = left_ < sizeof value ? left_ : sizeof value;
    memcpy(&value, data_, taken);
    data_ += taken;
    left_ -= taken;
    return value;
  }
  int64_t below(uint32_t bound) { return next<uint16_t>() % bound; }
  bool flip() { return next<uint8_t>() & 1; }
  // What is left, repeated with a shift, over memory of its own size: an access outside of it is found.
  std::unique_ptr<uint8_t[]> memory(size_t size) const {
    auto memory = std::make_unique<uint8_t[]>(size ? size : 1);
    for (size_t i = 0; i < size; ++i) memory[i] = left_ ? data_[(i + i / (left_ | 1) * 7) % left_] : 0;
    return memory;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

// A column, or one value for all.
template <class T>
Column<T> column(Bytes& bytes, int64_t rows, std::vector<std::unique_ptr<T[]>>& kept) {
  if (!bytes.flip()) return {bytes.next<T>(), nullptr};
  kept.push_back(std::make_unique<T[]>(rows));
  for (int64_t b = 0; b < rows; ++b) kept.back()[b] = bytes.next<T>();
  return {T{}, kept.back().get()};
}

void demand(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s\n", what);
  abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  Call call = {};
  call.dtype = static_cast<Dtype>(bytes.below(3));
  call.count = 1 + bytes.below(3);
  call.rows = bytes.below(5);
  call.vocab = 1 + bytes.below(bytes.flip() ? 20'000 : 1'100);
  call.row_stride = bytes.flip() ? call.vocab + bytes.below(4) : bytes.below(2) * call.vocab;
  std::vector<std::unique_ptr<float[]>> floats;
  std::vector<std::unique_ptr<int32_t[]>> small;
  std::vector<std::unique_ptr<int64_t[]>> large;
  call.temperature = column(bytes, call.rows, floats);
  call.top_k = column(bytes, call.rows, small);
  call.top_p = column(bytes, call.rows, floats);
  call.min_p = column(bytes, call.rows, floats);
  call.seed = column(bytes, call.rows, large);
  call.position = column(bytes, call.rows, large);
  if (bytes.flip()) call.stream = column(bytes, call.rows, large).rows;
  large.push_back(std::make_unique<int64_t[]>(call.rows));
  for (int64_t b = 0; b < call.rows; ++b) {
    large.back()[b] = bytes.next<int8_t>();
    if (large.back()[b] > 3) large.back()[b] %= call.count;
  }
  call.indices = large.back().get();
  const bool with_stats = bytes.flip(), is_distribution = bytes.below(8) == 0;
  const int threads = 1 + static_cast<int>(bytes.below(3));
  const size_t elements = (call.count - 1) * call.row_stride + call.vocab;
  const auto logits = bytes.memory(elements * (call.dtype == Dtype::kFloat32 ? 4 : 2));
  call.logits = logits.get();

  std::vector<int64_t> first, first_kept;
  for (const Worker* const* w = workers(); *w; ++w) {
    use(*w);
    std::vector<int64_t> tokens(call.rows, -2), kept(call.rows, -2);
    std::vector<float> numbers(4 * call.rows), probabilities;
    std::vector<int32_t> status(call.rows);
    if (is_distribution) {
      probabilities.resize(call.rows * call.vocab);
      call.probabilities = probabilities.data();
    } else {
      call.tokens = tokens.data();
      if (with_stats) {
        float* n = numbers.data();
        call.stats = {n, n + call.rows, n + 2 * call.rows, n + 3 * call.rows, kept.data(), status.data()};
      }
    }
    const int64_t invalid = sample_rows(call, threads);
    demand(invalid >= 0 && invalid <= call.rows, "more rows are invalid than there are");
    for (const float p : probabilities) demand(std::isnan(p) || (p >= 0 && p <= 1), "a probability is none");
    if (is_distribution) continue;
    for (const int64_t token : tokens) demand(token >= -1 && token < call.vocab, "a token is outside of the row");
    if (with_stats) {
      for (const int64_t n : kept) demand(n >= 0 && n <= call.vocab, "more tokens are kept than there are");
    }
    if (first.empty()) first = tokens, first_kept = kept;
    demand(tokens == first && kept == first_kept, "two instruction sets differ");
  }
  return 0;
}
