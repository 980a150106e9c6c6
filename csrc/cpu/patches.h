// An edited row: the chunks that an edit touches are read from copies, the others where they are.
//
// Chunks that the bitmask forbids are neither read nor copied: all of them are one chunk of -inf.
#pragma once

#include <cstring>

#include "../edits.h"
#include "half.h"
#include "scratch.h"

namespace fastsample {

template <Dtype D>
struct Element {
  using Raw = uint16_t;
  static constexpr Raw kForbidden = D == Dtype::kBfloat16 ? 0xff80 : 0xfc00;
  static float wide(Raw x) {
    return D == Dtype::kBfloat16 ? of_bits(static_cast<uint32_t>(x) << 16) : half_to_float(x);
  }
  static Raw narrow(float x) { return D == Dtype::kBfloat16 ? to_bfloat16(x) : to_float16(x); }
};
template <>
struct Element<Dtype::kFloat32> {
  using Raw = float;
  static constexpr Raw kForbidden = -__builtin_inff();
  static float wide(Raw x) { return x; }
  static Raw narrow(float x) { return x; }
};

template <Dtype D>
class Patcher {
 public:
  using Raw = typename Element<D>::Raw;
  static constexpr Raw kForbidden = Element<D>::kForbidden;

  Patcher(const Call& call, const Edits& edits, const void* logits, int64_t b, const Patches& patches)
      : x_(static_cast<const Raw*>(logits)),
        vocab_(call.vocab),
        allowed_(edits.allowed ? edits.allowed + b * edits.allowed_stride : nullptr),
        at_(patches.at),
        copies_(static_cast<Raw*>(patches.copies)) {}

  // Leaves for each of these chunks where its copy is, or null.
  void patch(const Edits& edits, int64_t b, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) at_[j] = nullptr;
    if (allowed_) {
      for (int64_t j = first; j < last; ++j) forbid(j);
    }
    if (!edits.entries) return;
    const Penalties penalties = penalties_of(edits, b);
    const int32_t* const ids = edits.ids + b * edits.entries;
    const int64_t begin = first * kChunk, end = last * kChunk < vocab_ ? last * kChunk : vocab_;
    for (int64_t e = 0; e < edits.entries; ++e) {
      const int64_t token = ids[e], place = b * edits.entries + e;
      if (token < begin || token >= end || !is_allowed(allowed_, token)) continue;
      const float x = Element<D>::wide(x_[token]);
      copy(token / kChunk)[token % kChunk] =
          Element<D>::narrow(edited(x, edits.counts[place], edits.biases[place], penalties));
    }
  }

 private:
  struct Nothing {
    alignas(64) Raw chunk[kChunk];
    Nothing() {
      for (Raw& x : chunk) x = kForbidden;
    }
  };

  int64_t size(int64_t j) const { return (j + 1) * kChunk <= vocab_ ? kChunk : vocab_ - j * kChunk; }

  // The copy of chunk j, made when it is first asked for; padded like the last chunk of any row.
  Raw* copy(int64_t j) {
    Raw* const chunk = copies_ + j * kChunk;
    if (!at_[j]) {
      memcpy(chunk, x_ + j * kChunk, static_cast<size_t>(size(j)) * sizeof(Raw));
      for (int64_t i = size(j); i < kChunk; ++i) chunk[i] = kForbidden;
      at_[j] = chunk;
    }
    return chunk;
  }

  void forbid(int64_t j) {
    static const Nothing nothing;
    uint32_t in_all = ~0u, in_any = 0;
    for (int64_t i = 0; i < size(j); i += kWord) {
      const int64_t left = size(j) - i;
      const uint32_t word = allowed_word(allowed_, (j * kChunk + i) / kWord, vocab_);
      in_any |= word;
      in_all &= left >= kWord ? word : word | ~0u << left;
    }
    if (in_all == ~0u) return;
    if (!in_any) {
      at_[j] = nothing.chunk;
      return;
    }
    Raw* const chunk = copies_ + j * kChunk;
    at_[j] = chunk;
    for (int64_t i = 0; i < kChunk; i += kWord) {
      const int64_t left = size(j) - i;
      const uint32_t word = left > 0 ? allowed_word(allowed_, (j * kChunk + i) / kWord, vocab_) : 0;
      copy_word(chunk + i, x_ + j * kChunk + i, word, left);
    }
  }

  // Of 32 logits, of which `left` are in the row, those whose bit is set.
  static void copy_word(Raw* to, const Raw* from, uint32_t word, int64_t left) {
    if (!word) {
      for (int k = 0; k < kWord; ++k) to[k] = kForbidden;
      return;
    }
    if (left >= kWord) {
      memcpy(to, from, kWord * sizeof(Raw));
    } else {
      memcpy(to, from, static_cast<size_t>(left) * sizeof(Raw));
    }
    for (uint32_t bits = ~word; bits; bits &= bits - 1) to[__builtin_ctz(bits)] = kForbidden;
  }

  const Raw* x_;
  const int64_t vocab_;
  const int32_t* allowed_;
  const void** at_;
  Raw* copies_;
};

template <Dtype D>
static void patch(const Call& call, const Edits& edits, const void* logits, int64_t b, int64_t first, int64_t last,
                  const Patches& patches) {
  Patcher<D>(call, edits, logits, b, patches).patch(edits, b, first, last);
}

}  // namespace fastsample
