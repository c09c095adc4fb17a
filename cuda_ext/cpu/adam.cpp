// Adam (Kingma & Ba 2015, algorithm 1) with a step count per row: a row that is added in the middle of a run starts its
// own bias correction instead of taking a first step three times too long.
#include "kernels.h"
#include "parallel.h"

SPLAT_KERNEL(adam, const AdamParams&)

namespace splat::cpu::SPLAT_ISA {

void adam(const AdamParams& p) {
  parallel_for(p.rows, 4096, [&](int64_t b, int64_t e) {
    for (int64_t row = b; row < e; ++row) {
      const float t = float(p.steps[row]);
      const float correction1 = 1.0f - __builtin_powf(p.beta1, t), correction2 = 1.0f - __builtin_powf(p.beta2, t);
      const float rate = p.learning_rate / correction1, inverse2 = 1.0f / correction2;
      for (int64_t i = row * p.columns; i < (row + 1) * p.columns; ++i) {
        const float g = p.grad[i];
        const float m = p.beta1 * p.exp_avg[i] + (1.0f - p.beta1) * g;
        const float v = p.beta2 * p.exp_avg_sq[i] + (1.0f - p.beta2) * g * g;
        p.exp_avg[i] = m;
        p.exp_avg_sq[i] = v;
        p.param[i] -= rate * m / (__builtin_sqrtf(v * inverse2) + p.epsilon);
      }
    }
  });
}

}  // namespace splat::cpu::SPLAT_ISA
