// One call, as plain pointers, sizes and strides: shared by the CPU and the CUDA side.
#pragma once

#include <cstdint>

namespace fastsample {

enum class Dtype : int { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

// A parameter: one value for all rows, or a value a row.
template <class T>
struct Column {
  T value;
  const T* rows;  // null: `value` for all
#ifdef __CUDACC__
  __host__ __device__
#endif
      __attribute__((always_inline)) T operator[](int64_t b) const {
    return rows ? rows[b] : value;
  }
};

// What comes back beside the token; all [B], all null where not wanted.
struct Stats {
  float* logprob;
  float* raw_logprob;
  float* entropy;
  float* self_certainty;
  int64_t* kept;
  int32_t* status;
};

// What is done to the logits before the draw (edits.h); all zero: nothing.
struct Edits {
  int64_t entries;          // C
  const int32_t* ids;       // [B, C]; outside of the vocabulary: no entry
  const int32_t* counts;    // [B, C]
  const float* biases;      // [B, C]
  const float* repetition;  // [B]
  const float* frequency;   // [B]
  const float* presence;    // [B]
  const int32_t* allowed;   // [B, ceil(V / 32)], a bit a token; null: all
  int64_t allowed_stride;   // in words; 0 included
};

struct Call {
  const void* logits;  // [N, V]
  Dtype dtype;
  int64_t count;       // N
  int64_t rows;        // B
  int64_t vocab;       // V, < 2^31
  int64_t row_stride;  // in elements; 0 and negative included
  Column<float> temperature;
  Column<int32_t> top_k;
  Column<float> top_p;
  Column<float> min_p;
  Column<int64_t> seed;
  const int64_t* stream;  // null: the row number
  Column<int64_t> position;
  const int64_t* indices;  // null: the row number

  int64_t* tokens;       // [B], or null where `probabilities` is wanted
  Stats stats;           // all null where not wanted
  float* probabilities;  // [B, V], or null
};

}  // namespace fastsample
