// The blocks that finish a row together: a cluster, on sm_90 and newer, or one block alone.
#pragma once

#include "block.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FASTSAMPLE_CLUSTERS 1
#else
#define FASTSAMPLE_CLUSTERS 0  // a GPU without clusters, the host's own code, or the emulation of them there
#endif

namespace fastsample::cuda {

constexpr int kMostBlocks = 8;  // of a team: as many as every GPU with clusters has room for

struct Team {
  int size, rank;
  int index;  // of the launch's teams

  // Of `blocks`, a power of two, which follow each other in the grid.
  static __device__ __forceinline__ Team of_blocks(int blocks) {
    const int block = static_cast<int>(blockIdx.x);
    return {blocks, block & (blocks - 1), block >> __popc(static_cast<unsigned>(blocks - 1))};
  }

  __device__ __forceinline__ bool leads() const { return rank == 0; }

  // A barrier for all threads of all blocks: behind it they see what each of them wrote before.
  __device__ __forceinline__ void sync() const {
#if FASTSAMPLE_CLUSTERS
    if (size > 1) {
      __syncwarp();
      asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
      return;
    }
#elif !defined(__CUDACC__)
    if (size > 1) return cooperative_groups::this_cluster().sync();
#endif
    sync_block();
  }

  // The same variable in the shared memory of the block that comes `n` behind this one, in a circle.
  template <class T>
  __device__ __forceinline__ T* of(T* mine, int n) const {
    const int other = rank + n < size ? rank + n : rank + n - size;
#if FASTSAMPLE_CLUSTERS
    return static_cast<T*>(__cluster_map_shared_rank(mine, static_cast<unsigned>(other)));
#elif defined(__CUDACC__)
    return mine + other;  // of one block
#else
    return cooperative_groups::this_cluster().map_shared_rank(mine, static_cast<unsigned>(other));
#endif
  }
};

#undef FASTSAMPLE_CLUSTERS

}  // namespace fastsample::cuda
