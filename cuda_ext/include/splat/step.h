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

  SPLAT_HD void operator()(Stored which, int width, int k, float grad) const {
    const int64_t at = i * width + k;
    adam_update(p.rule, age, p.rates[which], grad, p.exp_avg[which][at], p.exp_avg_sq[which][at], p.param[which][at]);
  }
};

template <int kDegree, int kFixed>
SPLAT_HD void step_gaussian(const StepParams& p, const Camera<float>& camera, int64_t i) {
  const bool visible = p.project.radii[2 * i] > 0;
  if (p.visible_only && !visible) return;
  const StoredUpdate update{p, i, adam_age(p.rule, ++p.steps[i])};
  GaussianGradient<float> v{};
  if (visible) {
    const Shape<float> shape(p.project, i);
    Collected<float> collected;
    CameraGradient<float> unused;
    project_vjp(p.project, p.splats, camera, shape, i, i, collected, unused);
    v = gaussian_gradient(p.project, shape, i, collected);
  }
  // The colours first: they are differentiated at the mean before it moves.
  const int D = sh_channels<kDegree, kFixed>(p.sh), degree = sh_degree<kDegree, kFixed>(p.sh);
  const int stored = int(p.sh.stride);
  Vec3<float> v_mean{};
  float unused[12];
  const auto add = [&](int k, int d, float grad) {
    k == 0 ? update(kSh0, D, d, grad) : update(kShN, stored, (k - 1) * D + d, grad);
  };
  const bool used = sh_color_vjp<float, kDegree, kFixed>(p.sh, p.v_colors, 0, i, v_mean, unused, add);
  if (!used)
    for (int d = 0; d < D; ++d) update(kSh0, D, d, 0.0f);
  const int reached = used ? ((degree + 1) * (degree + 1) - 1) * D : 0;
  for (int k = reached; k < stored; ++k) update(kShN, stored, k, 0.0f);
  const float mean[3] = {v.mean[0] + v_mean.x, v.mean[1] + v_mean.y, v.mean[2] + v_mean.z};
  for (int k = 0; k < 3; ++k) update(kMeans, 3, k, mean[k]);
  for (int k = 0; k < 4; ++k) update(kQuats, 4, k, v.quat[k]);
  for (int k = 0; k < 3; ++k) update(kLogScales, 3, k, v.scale[k]);
  update(kOpacityLogits, 1, 0, v.opacity);
}

}  // namespace splat
