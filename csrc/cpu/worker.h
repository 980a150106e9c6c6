// What one instruction set offers: the two stages of a row, for each dtype.
#pragma once

#include "../args.h"
#include "../contract.h"
#include "scratch.h"

namespace fastsample {

// What an output row gets that cannot be drawn.
static inline void write_invalid(const Call& call, int64_t b, Status status) {
  if (call.tokens) call.tokens[b] = -1;
  if (call.probabilities) {
    float* probabilities = call.probabilities + b * call.vocab;
    for (int64_t i = 0; i < call.vocab; ++i) probabilities[i] = __builtin_nanf("");
  }
  if (!call.stats.logprob) return;
  call.stats.logprob[b] = call.stats.raw_logprob[b] = __builtin_nanf("");
  call.stats.entropy[b] = call.stats.self_certainty[b] = __builtin_nanf("");
  call.stats.kept[b] = 0;
  call.stats.status[b] = status;
}

struct Worker {
  struct Of {
    // Stage 1 of chunks [first, last) of output row b; says whether a NaN or +inf was met.
    void (*weigh)(const Call&, const void* logits, int64_t b, int64_t first, int64_t last, const Scratch&,
                  bool* is_odd);
    // Stage 2, after all chunks were weighed; false: the row is invalid.
    bool (*finish)(const Call&, const void* logits, int64_t b, bool is_odd, const Scratch&);
  };
  const char* name;
  Of of[3];  // by Dtype
};

#if defined(__x86_64__) || defined(_M_X64)
extern const Worker kAvx512, kAvx2, kSse2;
#else
extern const Worker kNeon;
#endif

}  // namespace fastsample
