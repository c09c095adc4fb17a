// Adam (Kingma & Ba 2015, algorithm 1) with a step count per row: a row that is added in the middle of a run starts its own
// bias correction instead of taking a first step three times too long.
#pragma once
#include <math.h>

#include "splat/params.h"

namespace splat {

// Bias corrections of rows of one age.
struct AdamAge {
  float inverse1, inverse2;
};
SPLAT_HD AdamAge adam_age(const AdamRule& rule, int32_t steps) {
  return {1.0f / (1.0f - powf(rule.beta1, float(steps))), 1.0f / (1.0f - powf(rule.beta2, float(steps)))};
}
SPLAT_HD void adam_update(const AdamRule& rule, const AdamAge& age, float rate, float grad, float& exp_avg,
                          float& exp_avg_sq, float& param) {
  // Read before any is written: the compiler cannot know that they are apart, and would read again.
  const float first = rule.beta1 * exp_avg + (1.0f - rule.beta1) * grad;
  const float second = rule.beta2 * exp_avg_sq + (1.0f - rule.beta2) * grad * grad;
  const float moved = param - rate * age.inverse1 * first / (sqrtf(second * age.inverse2) + rule.epsilon);
  exp_avg = first;
  exp_avg_sq = second;
  param = moved;
}

}  // namespace splat
