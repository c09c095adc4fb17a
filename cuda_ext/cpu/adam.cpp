// Adam on the CPU: loops over values around adam.h.
#include "splat/adam.h"

#include "kernels.h"
#include "parallel.h"

SPLAT_KERNEL(adam, const AdamParams&)

namespace splat::cpu::SPLAT_ISA {

void adam(const AdamParams& p) {
  parallel_for(p.rows, 4096, [&](int64_t b, int64_t e) {
    for (int64_t row = b, next; row < e; row = next) {  // runs of rows of one age: the powers once, then plain vectors
      for (next = row + 1; next < e && p.steps[next] == p.steps[row];) ++next;
      const AdamRule rule = p.rule;
      const AdamAge age = adam_age(rule, p.steps[row]);
      const float rate = p.learning_rate;
      const float* __restrict grad = p.grad;
      float *__restrict param = p.param, *__restrict exp_avg = p.exp_avg, *__restrict exp_avg_sq = p.exp_avg_sq;
#pragma GCC ivdep
      for (int64_t i = row * p.columns; i < next * p.columns; ++i)
        adam_update(rule, age, rate, grad[i], exp_avg[i], exp_avg_sq[i], param[i]);
    }
  });
}

}  // namespace splat::cpu::SPLAT_ISA
