// Training steps of 3D Gaussians: a thread for each around step.h.
#include "splat/step.h"

#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

constexpr int kStepThreads = 128;
constexpr int kMostRest = (kMaxShBasis - 1) * 3;  // values of shN for three channels

// A Gaussian's harmonics are far apart for its neighbours' threads, which would touch a sector of memory for each value. So
// the block's rows of shN go through shared memory: read together, replaced by their gradients, and stepped together.
// Three channels.
template <int kDegree>
__global__ void __launch_bounds__(128, kDegree == 4 ? 2 : 3) step_gaussians(StepParams p) {
  __shared__ float rows[kStepThreads * (kMostRest + 1)];
  __shared__ AdamAge ages[kStepThreads];  // inverse1 = 0: the Gaussian stays
  if (p.skip != nullptr && *p.skip) return;
  const int t = int(threadIdx.x), width = int(p.sh.stride), pitch = width | 1;  // odd: no two lanes meet in a bank
  const int64_t first = int64_t(blockIdx.x) * kStepThreads, i = first + t;
  const int count = int(p.project.count - first < kStepThreads ? p.project.count - first : kStepThreads);
  const bool moving = t < count && moves(p, i);
  if (__syncthreads_and(!moving)) return;
  float *param = p.param[kShN] + first * width, *exp_avg = p.exp_avg[kShN] + first * width;
  float* exp_avg_sq = p.exp_avg_sq[kShN] + first * width;
  for (int at = t; at < count * width; at += kStepThreads) rows[at / width * pitch + at % width] = param[at];
  __syncthreads();
  ages[t] = {0.0f, 0.0f};
  if (moving) {
    const StoredUpdate update(p, i);
    ages[t] = update.age;
    ShParams<float> sh = p.sh;
    sh.shN = rows - first * pitch;
    sh.stride = pitch;
    float* row = rows + t * pitch;
    step_gaussian<kDegree, 3>(p, sh, Camera<float>(p.project, 0), update, [=](int k, float grad) { row[k] = grad; });
  }
  __syncthreads();
  const float rate = p.rates[kShN];
  for (int at = t; at < count * width; at += kStepThreads) {
    const AdamAge age = ages[at / width];
    if (age.inverse1 == 0.0f) continue;
    adam_update(p.rule, age, rate, rows[at / width * pitch + at % width], exp_avg[at], exp_avg_sq[at], param[at]);
  }
}

// Any number of channels.
__global__ void __launch_bounds__(128, 4) step_gaussians_any(StepParams p) {
  if (p.skip != nullptr && *p.skip) return;
  const int64_t i = int64_t(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= p.project.count || !moves(p, i)) return;
  const StoredUpdate update(p, i);
  step_gaussian<-1, 0>(p, p.sh, Camera<float>(p.project, 0), update,
                       [&](int k, float grad) { update(kShN, int(p.sh.stride), k, grad); });
}

}  // namespace

void step(const StepParams& p, cudaStream_t stream) {
  if (p.project.count == 0) return;
  const unsigned blocks = unsigned((p.project.count + kStepThreads - 1) / kStepThreads);
  const auto go = [&](auto kernel) { SPLAT_LAUNCH(kernel, dim3(blocks), dim3(kStepThreads), stream, p); };
  if (p.sh.channels != 3) return go(step_gaussians_any);
  switch (p.sh.degree) {
    case 0: return go(step_gaussians<0>);
    case 1: return go(step_gaussians<1>);
    case 2: return go(step_gaussians<2>);
    case 3: return go(step_gaussians<3>);
    default: return go(step_gaussians<4>);
  }
}

}  // namespace splat::cuda
