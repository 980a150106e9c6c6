// The CUDA kernel as host C++: reads calls from stdin, writes tokens, kept counts and statuses to stdout. The kernels'
// source is the product's; a fiber per CUDA thread runs it, under whatever sanitizer this file is compiled with.
#include "cuda_on_host.h"
// clang-format off
#include "csrc/cuda/edit.cuh"
// clang-format on
#include <cstdio>
#include <vector>

using namespace fastsample;

template <class T>
static std::vector<T> take(size_t n) {
  std::vector<T> v(n);
  if (n && fread(v.data(), sizeof(T), n, stdin) != n) exit(3);
  return v;
}

// The call on rows that were edited first, into memory that ends where the last of them does.
template <Dtype D>
static Call edited_first(Call call, const Edits& edits, std::vector<unsigned char>& rows, uint64_t seed) {
  const int64_t stride = (call.vocab + 7) / 8 * 8, tokens = cuda::kEditChunks * kChunk;
  const size_t bytes = static_cast<size_t>(call.rows * stride) * (D == Dtype::kFloat32 ? 4 : 2);
  rows.resize(bytes + 16);
  void* const first = rows.data() + (16 - reinterpret_cast<uintptr_t>(rows.data()) % 16) % 16;
  const cuda::Copies copies = {first, stride, static_cast<int>((call.vocab + tokens - 1) / tokens)};
  const dim3 grid(static_cast<unsigned>(call.rows * copies.splits)), block(cuda::kThreads);
  emu::launch(grid, block, dim3(1), 0, [=] { cuda::edit<D>(call, edits, copies); }, seed);
  call.logits = first, call.count = call.rows, call.row_stride = stride, call.indices = nullptr;
  return call;
}

template <Dtype D>
static void launch(Call call, const Edits& edits, const cuda::Workspace& space, bool with_stats, uint64_t seed,
                   unsigned team) {
  std::vector<unsigned char> rows;
  if (edits.entries || edits.allowed) call = edited_first<D>(call, edits, rows, seed);
  const dim3 grid(static_cast<unsigned>(call.rows * space.splits)), block(cuda::kThreads);
  if (with_stats) {
    emu::launch(grid, block, dim3(1), 0, [=] { cuda::read<D, true>(call, space); }, seed);
  } else {
    emu::launch(grid, block, dim3(1), 0, [=] { cuda::read<D, false>(call, space); }, seed);
  }
  const dim3 teams(static_cast<unsigned>(call.rows) * team);
  emu::launch(teams, block, dim3(team), 0, [=] { cuda::finish<D>(call, space); }, seed);
}

int main() {
  while (true) {
    // dtype, count, vocab, rows, splits, seed of the schedule, with statistics, entries, with bitmask, team
    int64_t head[10];
    if (fread(head, sizeof head, 1, stdin) != 1) return 0;
    const Dtype dtype = static_cast<Dtype>(head[0]);
    const int64_t count = head[1], vocab = head[2], rows = head[3], chunks = (vocab + kChunk - 1) / kChunk;
    const size_t size = dtype == Dtype::kFloat32 ? 4 : 2, n = static_cast<size_t>(rows);
    const auto logits =
        take<unsigned char>(static_cast<size_t>(count * vocab) * size);  // its exact size: ASan sees a step beyond
    const auto temperature = take<float>(n), top_p = take<float>(n), min_p = take<float>(n);
    const auto top_k = take<int32_t>(n);
    const auto seed = take<int64_t>(n), stream = take<int64_t>(n), position = take<int64_t>(n),
               indices = take<int64_t>(n);
    const size_t entries = static_cast<size_t>(head[7]) * n, words = head[8] ? n * ((vocab + 31) / 32) : 0;
    const auto ids = take<int32_t>(entries), counts = take<int32_t>(entries);
    const auto biases = take<float>(entries);
    const auto repetition = take<float>(n), frequency = take<float>(n), presence = take<float>(n);
    const auto allowed = take<int32_t>(words);
    const Edits edits = {head[7],           ids.data(),       counts.data(),   biases.data(),
                         repetition.data(), frequency.data(), presence.data(), head[8] ? allowed.data() : nullptr,
                         (vocab + 31) / 32};
    std::vector<int64_t> tokens(n, -2), kept(n, -2), sums(n * static_cast<size_t>(chunks));
    std::vector<int32_t> status(n, -2);
    std::vector<float> floats(4 * n), tops(sums.size()), moments(3 * sums.size());
    Call call = {};
    call.logits = logits.data(), call.dtype = dtype, call.count = count, call.rows = rows, call.vocab = vocab,
    call.row_stride = vocab;
    call.temperature = {0, temperature.data()}, call.top_k = {0, top_k.data()};
    call.top_p = {0, top_p.data()}, call.min_p = {0, min_p.data()};
    call.seed = {0, seed.data()}, call.stream = stream.data(), call.position = {0, position.data()};
    call.indices = indices.data(), call.tokens = tokens.data();
    if (head[6]) {
      call.stats = {floats.data(),         floats.data() + n, floats.data() + 2 * n,
                    floats.data() + 3 * n, kept.data(),       status.data()};
    }
    const unsigned team = static_cast<unsigned>(head[9]);
    const cuda::Workspace space = {sums.data(), tops.data(), moments.data(), static_cast<int>(head[4]),
                                   static_cast<int>(team)};
    const uint64_t schedule = static_cast<uint64_t>(head[5]);
    if (dtype == Dtype::kFloat32) launch<Dtype::kFloat32>(call, edits, space, head[6], schedule, team);
    if (dtype == Dtype::kBfloat16) launch<Dtype::kBfloat16>(call, edits, space, head[6], schedule, team);
    if (dtype == Dtype::kFloat16) launch<Dtype::kFloat16>(call, edits, space, head[6], schedule, team);
    fwrite(tokens.data(), sizeof(int64_t), n, stdout);
    fwrite(kept.data(), sizeof(int64_t), n, stdout);
    fwrite(floats.data(), sizeof(float), floats.size(), stdout);
    fflush(stdout);
  }
}
