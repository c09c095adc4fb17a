// 3D front end: loops over Gaussians and cameras around project.h.
#include "splat/project.h"

#include "camera_sums.cuh"
#include "kernels.h"

namespace splat::cuda {
namespace {

__global__ void __launch_bounds__(256) project_splats(ProjectParams<float> p) {
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x, c = blockIdx.y;
  if (i >= p.count) return;
  const Camera<float> camera(p, c);
  if (!project_gaussian(p, camera, i, c * p.count + i)) write_culled(p, c * p.count + i);
}

__global__ void __launch_bounds__(256) project_vjps(ProjectParams<float> p, ProjectGrads<float> g, float* partial) {
  __shared__ BlockSums sums;
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  const bool mine = i < p.count;
  const Shape<float> shape(p, mine ? i : 0);
  Collected<float> v;
  bool seen = false;
  for (int64_t c = 0; c < p.cameras; ++c) {
    const int64_t from = c * p.count + i;
    const bool visible = mine && p.radii[2 * from] > 0;
    CameraGradient<float> camera = {};
    if (visible) project_vjp(p, g, Camera<float>(p, c), shape, i, from, v, camera);
    seen |= visible;
    sums.add(camera.v, partial + (int64_t(blockIdx.x) * p.cameras + c) * kCameraSums);
  }
  if (!mine) return;
  if (seen)
    write_gaussian(p, g, Shape<float>(p, i), i, v);  // made again: across the loop it would cost registers
  else
    clear_gaussian(g, i);
}

}  // namespace

void project(const ProjectParams<float>& p, cudaStream_t stream) {
  if (p.count == 0 || p.cameras == 0) return;
  SPLAT_LAUNCH(project_splats, dim3(unsigned(sum_blocks(p.count)), unsigned(p.cameras)), dim3(kSumThreads), stream, p);
}

void project_backward(const ProjectParams<float>& p, const ProjectGrads<float>& g, float* partial,
                      cudaStream_t stream) {
  const int64_t blocks = sum_blocks(p.count);
  if (blocks > 0) SPLAT_LAUNCH(project_vjps, dim3(unsigned(blocks)), dim3(kSumThreads), stream, p, g, partial);
  add_blocks(partial, blocks, p.cameras, g.v_viewmats, g.v_Ks, stream);
}

}  // namespace splat::cuda
