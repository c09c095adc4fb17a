// 2D front end: loops over Gaussians around project_image.h.
#include "splat/project_image.h"

#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

__global__ void __launch_bounds__(256) image_splats(ProjectImageParams p) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < p.count) project_image_gaussian(p, i);
}
__global__ void __launch_bounds__(256) image_vjps(ProjectImageGrads g) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < g.count) project_image_vjp(g, i);
}
unsigned blocks_for(int64_t count) { return unsigned((count + 255) / 256); }

}  // namespace

void project_image(const ProjectImageParams& p, cudaStream_t stream) {
  if (p.count > 0) SPLAT_LAUNCH(image_splats, dim3(blocks_for(p.count)), dim3(256), stream, p);
}
void project_image_backward(const ProjectImageGrads& g, cudaStream_t stream) {
  if (g.count > 0) SPLAT_LAUNCH(image_vjps, dim3(blocks_for(g.count)), dim3(256), stream, g);
}

}  // namespace splat::cuda
