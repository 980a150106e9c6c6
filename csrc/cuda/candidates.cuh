// Tokens among which a cut lies: what each adds to its chunk's mass, exactly, and which of them is the cut.
//
// Within a chunk tokens are kept in the order of their keys. So what a token adds is the difference of two truncated
// masses, and the mass of a prefix of the row is the plain sum of what its tokens add: integers, whatever the order.
#pragma once

#include "bins.cuh"

namespace fastsample::cuda {

constexpr int kCapacity = 512;  // candidates
constexpr int kPairs = 96;      // candidates that are compared pair by pair
constexpr int kMaxTops = 2048;  // chunks of a row that a shortlist is made of: 524,288 tokens
constexpr int kParts = kThreads;

struct alignas(16) Candidate {
  int64_t key, adds;
};
struct Region {  // the candidates of one chunk lie side by side
  uint16_t first, count;
};

struct Found {
  int64_t key, mass;  // the mass of the prefix that ends with it
  int rank;           // in the order, from 0; -1: none was found
};

// What only a shortlist needs.
struct List {
  float tops[kMaxTops], masses[kMaxTops];      // of every chunk
  unsigned count_in[kParts], mass_in[kParts];  // of the chunks whose maximum lies in a part of a range
  int chunk[kThreads];                         // those that are read again, in the order of the row
  Region region[kThreads];
  int n, part, in_part;
  unsigned above_part;
};

// Shared memory of the block that finishes a row.
struct Desk {
  union {
    List list;
    Crowd crowd;
  };
  Candidate candidates[kCapacity];
  uint32_t weight[kCapacity];
  Region region[kCapacity];
  uint16_t few[kCapacity];  // candidates between which the cut lies
  int n, n_above;
  unsigned nearest, farthest;  // of the tokens between two ranks, below the higher one
  int n_few;
  int64_t mass_at[2][kWarps];
  int count_at[2][kWarps];
  Found found[2];

  // The logit and its index, of which `weigh` makes a key: there a thread has one, and here a warp.
  __device__ __forceinline__ void place(int at, float x, int token) {
    candidates[at].key = static_cast<int64_t>(bits_of(x)) << 32 | token;
  }
};

template <Dtype D>
class Candidates {
 public:
  __device__ Candidates(const Row<D>& row, Desk& desk) : row_(row), desk_(desk) {}

  // Places those of a lane's eight logits whose bit is set, and the other lanes' of the same chunk beside them.
  __device__ __forceinline__ Region place(const float* x, unsigned inside, int j) {
    const int mine = __popc(inside), self = lane_of();
    int at = 0, total = 0;
    for (unsigned who = __ballot_sync(kAll, inside != 0); who; who &= who - 1) {  // a lane or two, as a rule
      const int lane = __ffs(static_cast<int>(who)) - 1;
      if (self == lane) at = total;
      total += __shfl_sync(kAll, mine, lane);
    }
    int base = 0;
    if (self == 0 && total) base = atomicAdd(&desk_.n, total);
    base = __shfl_sync(kAll, base, 0);
    const Region region = {static_cast<uint16_t>(base), static_cast<uint16_t>(total)};
    if (base + total > kCapacity) return region;
    at += base;
    if (inside) {
#pragma unroll
      for (int e = 0; e < kEight; ++e) {
        if (inside & 1u << e) {
          desk_.place(at, x[e], j * kChunk + self * kEight + e);
          desk_.region[at] = region;
          ++at;
        }
      }
    }
    return region;
  }

  // The weight of each, and what it adds beyond the tokens of its chunk that come before. `HasBase`: row.sums hold the
  // weights of tokens that come before every candidate, and those of one chunk lie anywhere.
  template <bool HasBase>
  __device__ __forceinline__ void weigh(int n) {
    for (int c = thread_of(); c < n; c += kThreads) {
      const int64_t placed = desk_.candidates[c].key;
      const int index = static_cast<int>(placed & 0xffffffff);
      const float x = of_bits(static_cast<uint32_t>(placed >> 32));
      desk_.candidates[c].key = key_of<D>(x, index);
      desk_.weight[c] = static_cast<uint32_t>(light_weight(x, row_.tops[index / kChunk], row_.factor));
    }
    sync_block();
    for (int c = thread_of(); c < n; c += kThreads) {
      const int64_t key = desk_.candidates[c].key;
      const int j = index_of(key) / kChunk;
      int64_t before = HasBase ? row_.sums[j] : 0;
      const Region region = desk_.region[c];
      const int first = HasBase ? 0 : region.first, last = HasBase ? n : region.first + region.count;
      for (int d = first; d < last; ++d) {
        const int64_t other = desk_.candidates[d].key;
        if (other > key && (!HasBase || index_of(other) / kChunk == j)) before += desk_.weight[d];
      }
      const double scale = row_.scale(j);
      desk_.candidates[c].adds =
          mass(static_cast<double>(before + desk_.weight[c]), scale) - mass(static_cast<double>(before), scale);
    }
    if (thread_of() < 2) desk_.found[thread_of()] = {0, 0, -1};
    sync_block();
  }

  // Behind `weigh`: how many come before each, and what they add, where they are few enough to be compared in pairs.
  __device__ __forceinline__ void rank(int n) {
    if (n > kPairs || thread_of() >= n) return;
    const int64_t key = desk_.candidates[thread_of()].key;
    rank_ = before_ = 0;
#pragma unroll 4
    for (int i = 0; i < n; ++i) count(desk_.candidates[i], key);
  }

  // The candidate with which the number of tokens, or their mass, reaches `goal`; false where none does. `mass_above`
  // and `n_above` are of tokens before every candidate. Once behind `rank` for each measure.
  __device__ __forceinline__ bool pick(int n, bool by_count, int64_t goal, Found* found, int64_t mass_above = 0,
                                       int n_above = 0) {
    const bool is_narrowed = n > kPairs;
    if (is_narrowed) {
      narrow(n, by_count, goal, &mass_above, &n_above);
      n = desk_.n_few;
    }
    for (int c = thread_of(); c < n; c += kThreads) {
      const Candidate me = desk_.candidates[is_narrowed ? desk_.few[c] : c];
      if (is_narrowed) {
        rank_ = before_ = 0;
        for (int i = 0; i < n; ++i) count(desk_.candidates[desk_.few[i]], me.key);
      }
      const int64_t before = mass_above + before_;
      const int rank = n_above + rank_;
      if (by_count ? rank + 1 == goal : before < goal && goal <= before + me.adds) {
        desk_.found[by_count] = {me.key, before + me.adds, rank};
      }
    }
    sync_block();
    *found = desk_.found[by_count];
    return found->rank >= 0;
  }

 private:
  __device__ __forceinline__ void count(const Candidate& other, int64_t key) {
    if (other.key > key) ++rank_, before_ += other.adds;
  }

  // Lists the few candidates between which the cut must lie, and adds those before them to what is above: nine parts
  // of the range of keys a round, a warp a border.
  __device__ __forceinline__ void narrow(int n, bool by_count, int64_t goal, int64_t* mass_above, int* n_above) {
    int64_t low = static_cast<int64_t>(rank_of<D>(-kLargest)) * (1 << kIndexBits);
    int64_t high = (static_cast<int64_t>(rank_of<D>(row_.top)) + 1) * (1 << kIndexBits);
    int64_t lowest = high;
    for (int c = thread_of(); c < n; c += kThreads) {
      lowest = desk_.candidates[c].key < lowest ? desk_.candidates[c].key : lowest;
    }
    lowest = block_reduce(lowest, Smaller());
    if (lowest > low) low = lowest;
    int64_t above_high = 0;
    int in_low = n, in_high = 0;
#pragma unroll 1
    for (int round = 0; in_low - in_high > kPairs / 2 && high - low > kWarps + 1; ++round) {
      const int64_t part = (high - low) / (kWarps + 1);
      const int64_t at = low + part * (warp_of() + 1);
      int64_t mass = 0;
      int count = 0;
#pragma unroll 2
      for (int c = lane_of(); c < n; c += 32) {
        const Candidate one = desk_.candidates[c];
        if (one.key >= at) ++count, mass += one.adds;
      }
      count = static_cast<int>(__reduce_add_sync(kAll, static_cast<unsigned>(count)));
      mass = warp_reduce(mass, Add());
      if (lane_of() == 0) desk_.count_at[round & 1][warp_of()] = count, desk_.mass_at[round & 1][warp_of()] = mass;
      sync_block();
      const int of = lane_of() & (kWarps - 1), its_count = desk_.count_at[round & 1][of];
      const int64_t its_mass = desk_.mass_at[round & 1][of];
      const bool is_enough = by_count ? its_count + *n_above >= goal : its_mass + *mass_above >= goal;
      const int k = __popc(__ballot_sync(kAll, is_enough) & ((1u << kWarps) - 1));  // borders ascend
      if (k < kWarps) {
        high = low + part * (k + 1);
        in_high = __shfl_sync(kAll, its_count, k);
        above_high = __shfl_sync(kAll, its_mass, k);
      }
      if (k) {
        low += part * k;
        in_low = __shfl_sync(kAll, its_count, k - 1);
      }
    }
    if (thread_of() == 0) desk_.n_few = 0;
    sync_block();
    for (int c = thread_of(); c < n; c += kThreads) {
      const int64_t key = desk_.candidates[c].key;
      if (key >= low && key < high) desk_.few[atomicAdd(&desk_.n_few, 1)] = static_cast<uint16_t>(c);
    }
    sync_block();
    *mass_above += above_high;
    *n_above += in_high;
  }

  const Row<D>& row_;
  Desk& desk_;
  int rank_ = 0;        // of the candidate whose number is the thread's, among candidates: how many come before it
  int64_t before_ = 0;  // and what they add
};

}  // namespace fastsample::cuda
