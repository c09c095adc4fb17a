// Adam (Kingma & Ba 2015, algorithm 1) with a step count per row: a row that is added in the middle of a run starts its own
// bias correction instead of taking a first step three times too long.
#pragma once
#include <math.h>

#include "splat/params.h"

namespace splat {

// What rows of one age share.
struct AdamStep {
  float rate, inverse2, beta1, beta2, epsilon;
};
SPLAT_HD AdamStep adam_step(const AdamParams& p, int32_t age) {
  const float correction1 = 1.0f - powf(p.beta1, float(age)), correction2 = 1.0f - powf(p.beta2, float(age));
  return {p.learning_rate / correction1, 1.0f / correction2, p.beta1, p.beta2, p.epsilon};
}
SPLAT_HD void adam_update(const AdamStep& s, float grad, float& exp_avg, float& exp_avg_sq, float& param) {
  exp_avg = s.beta1 * exp_avg + (1.0f - s.beta1) * grad;
  exp_avg_sq = s.beta2 * exp_avg_sq + (1.0f - s.beta2) * grad * grad;
  param -= s.rate * exp_avg / (sqrtf(exp_avg_sq * s.inverse2) + s.epsilon);
}

}  // namespace splat
