// Colours from spherical harmonics: loops over Gaussians and cameras around sh_colors.h.
#include "splat/sh_colors.h"

#include "camera_sums.cuh"
#include "kernels.h"

namespace splat::cuda {
namespace {

// The degree and three channels as constants keep the basis in registers.
template <int kDegree, int kFixed>
__global__ void __launch_bounds__(256) sh_colors(ShParams<float> p) {
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x, c = blockIdx.y;
  if (i < p.count) sh_color<float, kDegree, kFixed>(p, View<float>{p.viewmats + 16 * c}.centre(), c, i);
}

template <int kDegree, int kFixed>
__global__ void __launch_bounds__(256, kFixed == 0 || kDegree == 3 ? 2 : (kDegree == 4 ? 1 : 4)) sh_vjps(ShParams<float> p, ShGrads<float> g, float* partial) {
  __shared__ BlockSums sums;
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  const bool mine = i < p.count;
  if (mine) clear_sh<float, kDegree, kFixed>(p, g, i);
  for (int64_t c = 0; c < p.cameras; ++c) {
    float camera[kCameraSums] = {};
    if (mine) sh_color_vjp<float, kDegree, kFixed>(p, g, c, i, camera);
    sums.add(camera, partial + (int64_t(blockIdx.x) * p.cameras + c) * kCameraSums);
  }
}

// Calls go(Kernels<kDegree, kFixed>()).
template <int kDegree, int kFixed>
struct Kernels {
  static constexpr auto colors = sh_colors<kDegree, kFixed>;
  static constexpr auto vjps = sh_vjps<kDegree, kFixed>;
};
template <class F>
void with_kernels(const ShParams<float>& p, F&& go) {
  if (p.channels != 3) return go(Kernels<-1, 0>());
  switch (p.degree) {
    case 0: return go(Kernels<0, 3>());
    case 1: return go(Kernels<1, 3>());
    case 2: return go(Kernels<2, 3>());
    case 3: return go(Kernels<3, 3>());
    default: return go(Kernels<4, 3>());
  }
}

}  // namespace

void sh(const ShParams<float>& p, cudaStream_t stream) {
  if (p.count == 0 || p.cameras == 0) return;
  with_kernels(p, [&](auto kernels) {
    const dim3 grid(unsigned(sum_blocks(p.count)), unsigned(p.cameras));
    SPLAT_LAUNCH(kernels.colors, grid, dim3(kSumThreads), stream, p);
  });
}

void sh_backward(const ShParams<float>& p, const ShGrads<float>& g, float* partial, cudaStream_t stream) {
  const int64_t blocks = sum_blocks(p.count);
  if (blocks > 0)
    with_kernels(p, [&](auto kernels) {
      SPLAT_LAUNCH(kernels.vjps, dim3(unsigned(blocks)), dim3(kSumThreads), stream, p, g, partial);
    });
  add_blocks(partial, blocks, p.cameras, g.v_viewmats, nullptr, stream);
}

}  // namespace splat::cuda
