// Training steps of 3D Gaussians: a thread for each around step.h.
#include "splat/step.h"

#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

constexpr int kStepThreads = 128;
constexpr int kTogether = 4;  // values of shN that a thread steps at a time, so that it waits for memory once

// A Gaussian's harmonics are far apart for its neighbours' threads, which would touch a sector of memory for each value. So
// the block's rows of shN go through shared memory: read together, replaced by their gradients, and stepped together.
// Three channels; kDegree: that in use, -1: any; kRest: the most values of a row.
template <int kDegree, int kRest>
__global__ void __launch_bounds__(128, kDegree == 4 ? 2 : 4) step_gaussians(StepParams p) {
  __shared__ float rows[kStepThreads * (kRest | 1)];  // odd: no two lanes meet in a bank
  __shared__ AdamAge ages[kStepThreads];              // inverse1 = 0: the Gaussian stays
  if (p.skip != nullptr && *p.skip) return;
  const int t = int(threadIdx.x), width = int(p.sh.stride), pitch = width | 1;
  const int64_t first = int64_t(blockIdx.x) * kStepThreads, i = first + t;
  const int count = int(p.project.count - first < kStepThreads ? p.project.count - first : kStepThreads);
  const bool moving = t < count && moves(p, i);
  ages[t].inverse1 = moving ? 1.0f : 0.0f;
  if (__syncthreads_and(!moving)) return;
  float *param = p.param[kShN] + first * width, *exp_avg = p.exp_avg[kShN] + first * width;
  float* exp_avg_sq = p.exp_avg_sq[kShN] + first * width;
  for (int at = t; at < count * width; at += kStepThreads) {
    const int row = at / width;
    if (ages[row].inverse1 != 0.0f) rows[row * (pitch - width) + at] = param[at];
  }
  __syncthreads();
  if (moving) {
    const StoredUpdate update(p, i);
    ages[t] = update.age;
    float* row = rows + t * pitch;
    step_gaussian<kDegree, 3>(p, Camera<float>(p.project, 0), update, row, [=](int k, float grad) { row[k] = grad; });
  }
  __syncthreads();
  const float rate = p.rates[kShN];
  for (int from = t; from < count * width; from += kTogether * kStepThreads) {
    float grad[kTogether], m[kTogether], v[kTogether], x[kTogether];
    AdamAge age[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int at = from + j * kStepThreads, row = at < count * width ? at / width : 0;
      age[j] = at < count * width ? ages[row] : AdamAge{0.0f, 0.0f};
      if (age[j].inverse1 == 0.0f) continue;
      grad[j] = rows[row * (pitch - width) + at];
      m[j] = exp_avg[at], v[j] = exp_avg_sq[at], x[j] = param[at];
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (age[j].inverse1 == 0.0f) continue;
      const int at = from + j * kStepThreads;
      adam_update(p.rule, age[j], rate, grad[j], m[j], v[j], x[j]);
      exp_avg[at] = m[j], exp_avg_sq[at] = v[j], param[at] = x[j];
    }
  }
}

// Any number of channels.
__global__ void __launch_bounds__(128, 4) step_gaussians_any(StepParams p) {
  if (p.skip != nullptr && *p.skip) return;
  const int64_t i = int64_t(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= p.project.count || !moves(p, i)) return;
  const StoredUpdate update(p, i);
  step_gaussian<-1, 0>(p, Camera<float>(p.project, 0), update, p.sh.shN + i * p.sh.stride,
                       [&](int k, float grad) { update(kShN, int(p.sh.stride), k, grad); });
}

}  // namespace

void step(const StepParams& p, cudaStream_t stream) {
  if (p.project.count == 0) return;
  const unsigned blocks = unsigned((p.project.count + kStepThreads - 1) / kStepThreads);
  const auto go = [&](auto kernel) { SPLAT_LAUNCH(kernel, dim3(blocks), dim3(kStepThreads), stream, p); };
  if (p.sh.channels != 3) return go(step_gaussians_any);
  constexpr int kDegree3 = 15 * 3, kMost = (kMaxShBasis - 1) * 3;  // values of a row
  if (p.sh.stride > kDegree3 && p.sh.degree < 4) return go(step_gaussians<-1, kMost>);  // on its way to degree 4
  switch (p.sh.degree) {
    case 0: return go(step_gaussians<0, kDegree3>);
    case 1: return go(step_gaussians<1, kDegree3>);
    case 2: return go(step_gaussians<2, kDegree3>);
    case 3: return go(step_gaussians<3, kDegree3>);
    default: return go(step_gaussians<4, kMost>);
  }
}

}  // namespace splat::cuda
