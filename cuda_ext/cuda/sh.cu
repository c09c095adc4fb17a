// Colours from spherical harmonics: loops over Gaussians and cameras around sh_colors.h.
#include "splat/sh_colors.h"

#include "camera_sums.cuh"
#include "kernels.h"

namespace splat::cuda {
namespace {

__global__ void __launch_bounds__(256) sh_colors(ShParams<float> p) {
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x, c = blockIdx.y;
  if (i < p.count) sh_color<float, -1, 0>(p, View<float>{p.viewmats + 16 * c}.centre(), c, i);
}

__global__ void __launch_bounds__(256) sh_vjps(ShParams<float> p, ShGrads<float> g, float* partial) {
  __shared__ BlockSums sums;
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  const bool mine = i < p.count;
  if (mine) clear_sh<float, -1, 0>(p, g, i);
  for (int64_t c = 0; c < p.cameras; ++c) {
    float camera[kCameraSums] = {};
    if (mine) sh_color_vjp<float, -1, 0>(p, g, c, i, camera);
    sums.add(camera, partial + (int64_t(blockIdx.x) * p.cameras + c) * kCameraSums);
  }
}

}  // namespace

void sh(const ShParams<float>& p, cudaStream_t stream) {
  if (p.count == 0 || p.cameras == 0) return;
  SPLAT_LAUNCH(sh_colors, dim3(unsigned(sum_blocks(p.count)), unsigned(p.cameras)), dim3(kSumThreads), stream, p);
}

void sh_backward(const ShParams<float>& p, const ShGrads<float>& g, float* partial, cudaStream_t stream) {
  const int64_t blocks = sum_blocks(p.count);
  if (blocks > 0) SPLAT_LAUNCH(sh_vjps, dim3(unsigned(blocks)), dim3(kSumThreads), stream, p, g, partial);
  add_blocks(partial, blocks, p.cameras, g.v_viewmats, nullptr, stream);
}

}  // namespace splat::cuda
