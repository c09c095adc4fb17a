// Adam (Kingma & Ba 2015, algorithm 1) with a step count per row: a row that is added in the middle of a run starts its
// own bias correction instead of taking a first step three times too long.
#include "kernels.h"
#include "parallel.h"

SPLAT_KERNEL(adam, const AdamParams&)

namespace splat::cpu::SPLAT_ISA {

void adam(const AdamParams& p) {
  parallel_for(p.rows, 4096, [&](int64_t b, int64_t e) {
    for (int64_t row = b, next; row < e; row = next) {  // runs of rows of one age: the powers once, then plain vectors
      for (next = row + 1; next < e && p.steps[next] == p.steps[row];) ++next;
      const float t = float(p.steps[row]);
      const float correction1 = 1.0f - __builtin_powf(p.beta1, t), correction2 = 1.0f - __builtin_powf(p.beta2, t);
      const float rate = p.learning_rate / correction1, inverse2 = 1.0f / correction2;
      const float beta1 = p.beta1, beta2 = p.beta2, epsilon = p.epsilon;
      const float* __restrict grad = p.grad;
      float *__restrict param = p.param, *__restrict exp_avg = p.exp_avg, *__restrict exp_avg_sq = p.exp_avg_sq;
      for (int64_t i = row * p.columns; i < next * p.columns; ++i) {
        const float g = grad[i];
        const float m = beta1 * exp_avg[i] + (1.0f - beta1) * g;
        const float v = beta2 * exp_avg_sq[i] + (1.0f - beta2) * g * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] -= rate * m / (__builtin_sqrtf(v * inverse2) + epsilon);
      }
    }
  });
}

}  // namespace splat::cpu::SPLAT_ISA
