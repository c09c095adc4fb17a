// Training steps of 3D Gaussians: a thread for each around step.h.
#include "splat/step.h"

#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

constexpr int kStepThreads = 128;

template <int kDegree, int kFixed>
__global__ void __launch_bounds__(128, kDegree == 4 ? 3 : 4) step_gaussians(StepParams p) {
  if (p.skip != nullptr && *p.skip) return;
  const int64_t i = int64_t(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i < p.project.count) step_gaussian<kDegree, kFixed>(p, Camera<float>(p.project, 0), i);
}

}  // namespace

void step(const StepParams& p, cudaStream_t stream) {
  if (p.project.count == 0) return;
  const unsigned blocks = unsigned((p.project.count + kStepThreads - 1) / kStepThreads);
  const auto go = [&](auto kernel) { SPLAT_LAUNCH(kernel, dim3(blocks), dim3(kStepThreads), stream, p); };
  if (p.sh.channels != 3) return go(step_gaussians<-1, 0>);
  switch (p.sh.degree) {
    case 0: return go(step_gaussians<0, 3>);
    case 1: return go(step_gaussians<1, 3>);
    case 2: return go(step_gaussians<2, 3>);
    case 3: return go(step_gaussians<3, 3>);
    default: return go(step_gaussians<4, 3>);
  }
}

}  // namespace splat::cuda
