// Adam: a thread for each value.
#include "splat/adam.h"

#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

__global__ void __launch_bounds__(256) adam_values(AdamParams p) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.rows * p.columns) return;
  adam_update(p.rule, adam_age(p.rule, p.steps[i / p.columns]), p.learning_rate, p.grad[i], p.exp_avg[i],
              p.exp_avg_sq[i], p.param[i]);
}

}  // namespace

void adam(const AdamParams& p, cudaStream_t stream) {
  const int64_t values = p.rows * p.columns;
  if (values > 0) SPLAT_LAUNCH(adam_values, dim3(unsigned((values + 255) / 256)), dim3(256), stream, p);
}

}  // namespace splat::cuda
