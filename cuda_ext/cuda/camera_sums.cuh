// Gradients of the cameras are sums over all Gaussians. Each block sums its Gaussians' shares in a fixed order, and the
// blocks' sums are added in order: the same bits on every run.
#pragma once
#include "kernels.h"
#include "launch.h"
#include "splat/project.h"
#include "warp.cuh"

namespace splat::cuda {


struct BlockSums {
  float warps[kSumThreads / 32][kCameraSums];

  // Sums `values` over the block into `to`. Every thread of the block calls it.
  __device__ __forceinline__ void add(const float (&values)[kCameraSums], float* to) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int k = 0; k < kCameraSums; k += 4) {
      const float total = sum4(values + k, lane);
      if ((lane & 7) == 0) warps[warp][k + (lane >> 3)] = total;
    }
    __syncthreads();
    if (threadIdx.x < kCameraSums) {
      float total = 0.0f;
      for (int w = 0; w < kSumThreads / 32; ++w) total += warps[w][threadIdx.x];
      to[threadIdx.x] = total;
    }
    __syncthreads();  // before the next sum overwrites the warps'
  }
};

// partial [blocks, C, kCameraSums] -> v_viewmats [C, 4, 4] and, unless null, v_Ks [C, 3, 3].
void add_blocks(const float* partial, int64_t blocks, int64_t cameras, float* v_viewmats, float* v_Ks,
                cudaStream_t stream);

}  // namespace splat::cuda
