// One Gaussian's training step for one camera: the backward passes of project and sh, and Adam on what it stores. No
// gradient goes through memory, which would cost more time than making it.
#pragma once
#include "splat/adam.h"
#include "splat/project.h"
#include "splat/sh_colors.h"

namespace splat {

// Adam on the values of one Gaussian.
struct StoredUpdate {
  const StepParams& p;
  int64_t i;
  AdamAge age;
  float rates[kStored];

  // Counts the step up.
  SPLAT_HD StoredUpdate(const StepParams& p, int64_t i) : p(p), i(i), age(adam_age(p.rule, ++p.steps[i])) {
    for (int k = 0; k < kStored; ++k) rates[k] = p.rates[k];
  }
  // k: of the `width` values that the Gaussian has of this kind.
  SPLAT_HD void operator()(Stored which, int width, int k, float grad) const {
    const int64_t at = i * width + k;
    adam_update(p.rule, age, rates[which], grad, p.exp_avg[which][at], p.exp_avg_sq[which][at], p.param[which][at]);
  }
};

SPLAT_HD bool moves(const StepParams& p, int64_t i) { return !p.visible_only || p.project.radii[2 * i] > 0; }

// Adds the gradients of the means of all opacities and scales. What is not finite is not drawn and does not move.
SPLAT_HD void pull(const StepParams& p, int64_t i, GaussianGradient<float>& v) {
  const float o = opacity_of(p.project, i);
  if (const float pulled = p.opacity_pull * o * (1.0f - o); finite(pulled)) v.opacity += pulled;
  for (int k = 0; k < 3; ++k)
    if (const float pulled = p.scale_pull * scale_of(p.project, i, k); finite(pulled)) v.scale[k] += pulled;
}

// shN: the Gaussian's row. rest(k, grad): takes the gradient of value k of it, of each once, after the value was read.
template <int kDegree, int kFixed, class Rest>
SPLAT_HD void step_gaussian(const StepParams& p, const Camera<float>& camera, const StoredUpdate& update,
                            const float* shN, Rest&& rest) {
  const int64_t i = update.i;
  GaussianGradient<float> v{};
  if (p.project.radii[2 * i] > 0) {
    const Shape<float> shape(p.project, i);
    Collected<float> collected;
    CameraGradient<float> unused;
    project_vjp(p.project, p.splats, camera, shape, i, i, collected, unused);
    v = gaussian_gradient(p.project, shape, i, collected);
  }
  if (p.opacity_pull != 0.0f || p.scale_pull != 0.0f) pull(p, i, v);
  // The colours first: they are differentiated at the mean before it moves.
  const int D = sh_channels<kDegree, kFixed>(p.sh), degree = sh_degree<kDegree, kFixed>(p.sh);
  Vec3<float> v_mean{};
  float unused[12];
  const bool used = sh_color_vjp<float, kDegree, kFixed>(
      p.sh, shN, p.v_colors, 0, i, v_mean, unused,
      [&](int k, int d, float grad) { k == 0 ? update(kSh0, D, d, grad) : rest((k - 1) * D + d, grad); });
  if (!used)
    for (int d = 0; d < D; ++d) update(kSh0, D, d, 0.0f);
  const int reached = used ? ((degree + 1) * (degree + 1) - 1) * D : 0;
  for (int k = reached; k < int(p.sh.stride); ++k) rest(k, 0.0f);
  const float mean[3] = {v.mean[0] + v_mean.x, v.mean[1] + v_mean.y, v.mean[2] + v_mean.z};
  for (int k = 0; k < 3; ++k) update(kMeans, 3, k, mean[k]);
  for (int k = 0; k < 4; ++k) update(kQuats, 4, k, v.quat[k]);
  for (int k = 0; k < 3; ++k) update(kLogScales, 3, k, v.scale[k]);
  update(kOpacityLogits, 1, 0, v.opacity);
}

}  // namespace splat
