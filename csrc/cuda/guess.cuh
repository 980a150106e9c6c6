// A bracket of keys that should hold a filter's cut, from 16 chunks of the highest maxima and 16 spread over the rest.
// A guess decides nothing: the sweep checks it with integers and looks elsewhere where it was wrong.
#pragma once

#include "logits.cuh"

namespace fastsample::cuda {

constexpr int kLook = 16;        // chunks taken from the top, and at most as many from the rest
constexpr int kBins = 1024;      // of logits between the floor and the row's maximum
constexpr int kCapacity = 1024;  // candidates
constexpr int kFew = 64;         // candidates that are ranked pair by pair

// What a guess knows, in shared memory: it is alike for all threads and would take registers.
struct Notes {
  int chunk[2 * kLook];  // those picked from the top, and from behind kLook those of the rest, or -1
  int n_taken, n_top, n_looked;
  float next_top;      // the highest maximum of the rest
  double ratio;        // chunks of the rest to those of them that are looked at
  double below_floor;  // measure of what was looked at and has no bin
};

// One piece of shared memory, first of a guess and then of the candidates that it led to.
union Desk {
  struct {
    unsigned long long top[kBins], rest[kBins];  // mass, or tokens, of a bin
  } bins;
  struct {
    int64_t key[kCapacity], measure[kCapacity];
  } candidates;
};

struct Bracket {
  int64_t low, high;
};

template <Dtype D>
class Guess {
 public:
  __device__ Guess(const Row<D>& row, Desk& desk, bool by_count) : row_(row), desk_(desk), by_count_(by_count) {}
  static __device__ __forceinline__ Notes& notes() {
    __shared__ Notes notes;
    return notes;
  }

  __device__ __forceinline__ Bracket operator()(int64_t low, int64_t target, int64_t total) {
    const float limit = at_rank(low >> kIndexBits);
    float floor = limit;
    if (!by_count_) {  // all tokens below the floor together weigh less than what may be missing from the total
      const double missing = total - target > 1 ? static_cast<double>(total - target) : 1.0;
      const float depth = static_cast<float>(logarithm(quotient(missing, row_.vocab)) * kLog2e) - kWeightBits;
      floor = fmaxf(limit, row_.top + depth / row_.factor);
    }
    pick(floor);
    // What the picked chunks hold above every chunk that was not picked.
    int64_t above = 0;
    float lowest = row_.top;
    for_picked(
        [&](float x, int, int64_t measure, bool is_top) {
          if (is_top && x >= notes().next_top) above += measure;
          lowest = fminf(lowest, x);
        },
        limit);
    above = block_sum(above);
    const bool is_enough = notes().next_top < limit || above >= target;
    if (is_enough && notes().next_top >= limit) {
      floor = fmaxf(floor, notes().next_top);
    } else if (by_count_) {
      floor = fmaxf(floor, block_reduce(lowest, Smaller()));
    }
    const float width = (row_.top - floor) / kBins, per = 1 / width;
    fill(floor, limit, per);
    const double scale = is_enough ? 0.0 : notes().ratio;
    double known = 0;
#pragma unroll 1
    for (int b = thread_of(); b < kBins; b += kThreads) known += in_bin(b, scale);
    known = block_sum(known);
    // A flat row: below the cut the chunks are alike, so the tail of those looked at is scaled up.
    const double offset =
        is_enough || by_count_ ? 0.0 : static_cast<double>(total) - known - notes().below_floor * scale;
    const double wanted = static_cast<double>(target) - offset;
    int low_bin = crossing(wanted, scale), high_bin = low_bin;
    if (!is_enough) {
      double tail = 0;
#pragma unroll 1
      for (int b = thread_of(); b < kBins; b += kThreads) {
        if (by_count_ ? b <= low_bin : b > low_bin) tail += desk_.bins.rest[b];
      }
      tail = block_sum(tail);
      // Three standard deviations of the number of tokens that the estimate rests on.
      const double tokens = by_count_ ? tail + 1 : notes().n_looked * (kChunk / 4.0) + 1;
      const double slack = 3.5 * (by_count_ ? sqrt(tokens) : quotient(tail, sqrt(tokens))) * scale;
      low_bin = crossing(wanted + slack, scale);
      high_bin = crossing(wanted - slack, scale);
    }
    const float a = row_.top - static_cast<float>(low_bin + 1) * width,
                b = row_.top - static_cast<float>(high_bin) * width;
    return {low_bin >= kBins - 1 ? key_before(floor) : key_before(a) - (1 << kIndexBits),
            high_bin <= 0 ? INT64_MAX : key_before(b) + (1 << kIndexBits)};
  }

 private:
  // The chunks with the highest maxima, ties in any order, and of the others up to 16 at even distances.
  __device__ __forceinline__ void pick(float floor) {
    Notes& notes = this->notes();
    int64_t a = rank_of(floor), b = static_cast<int64_t>(rank_of(row_.top)) + 1;
#pragma unroll 1
    for (int step = 0; step < 20; ++step) {
      const int64_t middle = a + (b - a) / 2;
      const float v = at_rank(middle);
      int n = 0;
#pragma unroll 1
      for (int j = thread_of(); j < row_.chunks; j += kThreads) n += row_.tops[j] >= v;
      (block_sum(n) > kLook ? a : b) = middle;
    }
    if (thread_of() == 0) notes.n_taken = 0;
    sync_block();
    const float first = at_rank(b);
    const auto take = [&](int j) {
      const int at = atomicAdd(&notes.n_taken, 1);
      if (at < kLook) notes.chunk[at] = j;
    };
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) {
      if (row_.tops[j] >= first) take(j);
    }
    sync_block();
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) {
      if (row_.tops[j] >= floor && row_.tops[j] < first) take(j);
    }
    sync_block();
    if (thread_of() == 0) notes.n_top = notes.n_taken < kLook ? notes.n_taken : kLook;
    sync_block();
    float next = kNever;
    int n_rest = 0;
#pragma unroll 1
    for (int j = thread_of(); j < row_.chunks; j += kThreads) {
      if (row_.tops[j] >= floor && !is_top(j)) {
        next = fmaxf(next, row_.tops[j]);
        ++n_rest;
      }
    }
    next = block_reduce(next, Larger());
    n_rest = block_sum(n_rest);
    if (thread_of() < kLook) {
      const int j = static_cast<int>(static_cast<int64_t>(thread_of()) * row_.chunks / kLook);
      const bool is_one = n_rest > 0 && row_.tops[j] >= floor && !is_top(j);
      notes.chunk[kLook + thread_of()] = is_one ? j : -1;
    }
    sync_block();
    if (thread_of() == 0) {
      int n = 0;
#pragma unroll 1
      for (int i = kLook; i < 2 * kLook; ++i) n += notes.chunk[i] >= 0;
      notes.n_looked = n;
      notes.next_top = next;
      notes.ratio = quotient(n_rest, n > 0 ? n : 1);
    }
    sync_block();
  }

  __device__ bool is_top(int j) const {
#pragma unroll 1
    for (int i = 0; i < notes().n_top; ++i) {
      if (notes().chunk[i] == j) return true;
    }
    return false;
  }

  // A warp a chunk; tokens below `limit` are cut off already.
  template <class F>
  __device__ __forceinline__ void for_picked(F f, float limit) const {
#pragma unroll 1
    for (int i = warp_of(); i < 2 * kLook; i += kWarps) {
      const int j = i < kLook && i >= notes().n_top ? -1 : notes().chunk[i];
      if (j < 0) continue;
      const double scale = row_.scale(j);
#pragma unroll 1
      for (int k = lane_of(); k < kChunk; k += 32) {
        const float x = row_.at(j * kChunk + k);
        if (!(x >= limit)) continue;
        const int64_t w = by_count_ ? 1 : mass(static_cast<double>(light_weight(x, row_.tops[j], row_.factor)), scale);
        f(x, k, w, i < kLook);
      }
    }
  }

  __device__ __forceinline__ void fill(float floor, float limit, float per) {
#pragma unroll 1
    for (int b = thread_of(); b < kBins; b += kThreads) desk_.bins.top[b] = desk_.bins.rest[b] = 0;
    sync_block();
    double under = 0;
    for_picked(
        [&](float x, int, int64_t measure, bool is_top) {
          if (x >= floor) {
            const float at = (row_.top - x) * per;
            const int b = at < kBins - 1 ? static_cast<int>(at) : kBins - 1;
            atomicAdd(is_top ? &desk_.bins.top[b] : &desk_.bins.rest[b], static_cast<unsigned long long>(measure));
          } else if (!is_top) {
            under += static_cast<double>(measure);
          }
        },
        limit);
    under = block_sum(under);
    if (thread_of() == 0) notes().below_floor = under;
  }

  __device__ double in_bin(int b, double scale) const {
    return static_cast<double>(desk_.bins.top[b]) + scale * static_cast<double>(desk_.bins.rest[b]);
  }

  // The first bin with which the measure from the top reaches `wanted`.
  __device__ int crossing(double wanted, double scale) const {
    __shared__ int found;
    constexpr int n = kBins / kThreads;
    const int first = thread_of() * n;
    double mine = 0;
#pragma unroll 1
    for (int b = first; b < first + n; ++b) mine += in_bin(b, scale);
    if (thread_of() == 0) found = kBins - 1;
    double sum = block_before(mine);
#pragma unroll 1
    for (int b = first; b < first + n; ++b) {
      sum += in_bin(b, scale);
      if (sum >= wanted) {
        atomicMin(&found, b);
        break;
      }
    }
    sync_block();
    const int bin = found;
    sync_block();
    return bin;
  }

  const Row<D>& row_;
  Desk& desk_;
  const bool by_count_;
};

}  // namespace fastsample::cuda
