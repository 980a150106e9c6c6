// What a block of 256 threads does together: sums, maxima, prefix sums. Every function is called by all of its threads.
#pragma once

#include "../args.h"
#include "../contract.h"

namespace fastsample::cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

// Read anew wherever it is needed: kept in registers, it and what follows from it would make others spill.
static __device__ __forceinline__ int thread_of() {
#ifdef __CUDA_ARCH__
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return static_cast<int>(threadIdx.x);
#endif
}
static __device__ __forceinline__ int lane_of() { return thread_of() & 31; }
static __device__ __forceinline__ int warp_of() { return thread_of() >> 5; }

// A barrier is for whole warps, and the compiler may have split the loop before it into several.
static __device__ __forceinline__ void sync_block() {
  __syncwarp();
  __syncthreads();
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};
struct LargerOrNan {
  __device__ float operator()(float a, float b) const {
#ifdef __CUDA_ARCH__
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
#else
    return b > a || b != b ? b : a;
#endif
  }
};
struct Smaller {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

template <class T, class F>
static __device__ __forceinline__ T warp_reduce(T v, F f) {
  for (int d = 16; d; d >>= 1) v = f(v, __shfl_xor_sync(kAll, v, d));
  return v;
}

// One barrier. What it leaves in shared memory is read until the next barrier: a `Place` is taken again behind one
// only.
template <int Place, class T, class F>
static __device__ __forceinline__ T reduce_at(T v, F f) {
  __shared__ T partial[kWarps];
  v = warp_reduce(v, f);
  if (lane_of() == 0) partial[warp_of()] = v;
  sync_block();
  v = partial[0];
  for (int w = 1; w < kWarps; ++w) v = f(v, partial[w]);
  return v;
}
template <int Place, class T>
static __device__ __forceinline__ T sum_at(T v) {
  return reduce_at<Place>(v, Add());
}

// The same at a place that every caller shares, hence a barrier more.
template <class T, class F>
static __device__ __forceinline__ T block_reduce(T v, F f) {
  sync_block();  // the last call's sum may still be read
  return reduce_at<-1>(v, f);
}
template <class T>
static __device__ __forceinline__ T block_sum(T v) {
  return block_reduce(v, Add());
}

template <class T>
struct Scanned {
  T before, total;  // of the threads before this one, and of all
};
template <class T>
static __device__ __forceinline__ T warp_through(T sum) {  // of the lanes up to this one
  for (int d = 1; d < 32; d <<= 1) {
    const T other = __shfl_up_sync(kAll, sum, d);
    if (lane_of() >= d) sum += other;
  }
  return sum;
}
template <class T>
static __device__ __forceinline__ Scanned<T> warp_scan(T v) {
  const T through = warp_through(v);
  return {through - v, __shfl_sync(kAll, through, 31)};
}
template <int Place, class T>
static __device__ __forceinline__ Scanned<T> scan_at(T v) {
  __shared__ T partial[kWarps];
  const T through = warp_through(v);
  if (lane_of() == 31) partial[warp_of()] = through;
  sync_block();
  T before = 0, total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp_of()) before = total;
    total += partial[w];
  }
  return {before + through - v, total};
}
template <class T>
static __device__ __forceinline__ Scanned<T> block_scan(T v) {
  sync_block();  // the last call's sums may still be read
  return scan_at<-1>(v);
}

// float64 arithmetic of a few scalars a row.
static __device__ __forceinline__ double logarithm(double x) { return log(x); }
static __device__ __forceinline__ double exponential(double x) { return exp(x); }
static __device__ __forceinline__ double quotient(double a, double b) { return a / b; }

}  // namespace fastsample::cuda
