// Rows as they are once edited, in memory of the call: the two kernels of kernel.cuh then read these in place of the
// logits, and know nothing of edits. A warp copies a chunk; then the block writes those of its tokens that are edited.
//
// Bytes of global memory a row of V tokens: V * element size read and written, V / 8 of the bitmask, and the row's
// entries once for every 2,048 tokens, from cache.
#pragma once

#include "../edits.h"
#include "kernel.cuh"

namespace fastsample::cuda {

// Where the edited rows go: [B, stride] logits. A row starts at 16 bytes, and is a multiple of them long.
struct Copies {
  void* rows;
  int64_t stride;  // in elements
  int splits;      // blocks of a row
};

constexpr int kEditChunks = kThreads / 32;  // of a block

template <Dtype D>
static __device__ __forceinline__ typename Logits<D>::Element narrow(float x) {
  if constexpr (D == Dtype::kFloat32) {
    return x;
  } else {
    return D == Dtype::kBfloat16 ? to_bfloat16(x) : to_float16(x);
  }
}

// A lane's eight logits of chunk j, without those that the row's bitmask forbids.
template <Dtype D>
static __device__ __forceinline__ void copy_eight(const Row<D>& row, const int32_t* allowed, int j, int64_t vocab,
                                                  typename Logits<D>::Element* to) {
  constexpr int words = sizeof(Eight<D>::words) / 4, in_word = kEight / words;
  const int64_t place = Eight<D>::place(j);
  if (place >= vocab) return;
  Eight<D> eight;
  eight.read(row, j);
  const uint32_t bits = allowed ? static_cast<uint32_t>(allowed[place / kWord]) >> (place % kWord) : 0xffu;
  uint4* const out = reinterpret_cast<uint4*>(to + place);
#pragma unroll
  for (int w = 0; w < words; ++w) {
    uint32_t& word = eight.words[w];
#pragma unroll
    for (int e = 0; e < in_word; ++e) {
      const uint32_t kept = bits >> (w * in_word + e) & 1u;
      const uint32_t mine = in_word == 1 ? ~0u : 0xffffu << (16 * e);
      if (!kept) word = (word & ~mine) | (Logits<D>::kNeverBits << (in_word == 1 ? 0 : 16 * e) & mine);
    }
  }
#pragma unroll
  for (int v = 0; v < words / 4; ++v) {
    out[v] = {eight.words[4 * v], eight.words[4 * v + 1], eight.words[4 * v + 2], eight.words[4 * v + 3]};
  }
}

template <Dtype D>
static __device__ __forceinline__ void edit(const Call& call, const Edits& edits, const Copies& copies) {
  follow();
  using Element = typename Logits<D>::Element;
  const int split = static_cast<int>(blockIdx.x % copies.splits);
  const int64_t b = blockIdx.x / copies.splits;
  const int64_t source = call.indices ? call.indices[b] : b;
  const bool is_row = source >= 0 && source < call.count;  // otherwise nothing of it is allowed, and nothing is read
  Row<D> row = {};
  row.x = static_cast<const Element*>(call.logits) + (is_row ? source * call.row_stride : 0);
  row.vocab = is_row ? static_cast<int>(call.vocab) : 0;
  const int32_t* const allowed = edits.allowed ? edits.allowed + b * edits.allowed_stride : nullptr;
  Element* const to = static_cast<Element*>(copies.rows) + b * copies.stride;
  copy_eight(row, allowed, split * kEditChunks + warp_of(), call.vocab, to);
  sync_block();
  if (!is_row || !edits.entries) return;
  const Penalties penalties = penalties_of(edits, b);
  const int64_t begin = static_cast<int64_t>(split) * kEditChunks * kChunk, last = begin + kEditChunks * kChunk;
  const int64_t end = last < call.vocab ? last : call.vocab;
#pragma unroll 1
  for (int64_t e = thread_of(); e < edits.entries; e += kThreads) {
    const int64_t place = b * edits.entries + e, token = edits.ids[place];
    if (token < begin || token >= end || !is_allowed(allowed, token)) continue;
    const float x = Logits<D>::wide(row.x[token]);
    to[token] = narrow<D>(edited(x, edits.counts[place], edits.biases[place], penalties));
  }
}

template <Dtype D>
__global__ void __launch_bounds__(kThreads) edit_rows(Call call, Edits edits, Copies copies) {
  edit<D>(call, edits, copies);
}

}  // namespace fastsample::cuda
