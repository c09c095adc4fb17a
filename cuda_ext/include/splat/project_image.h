// One Gaussian of an image through the 2D front end, and back. The kernels of every backend are loops around these functions.
#pragma once
#include <math.h>
#include <stdint.h>

#include "splat/image.h"
#include "splat/params.h"

namespace splat {

// Radius in pixels along an axis of the picture (as in project): 0 where the splat cannot be drawn.
SPLAT_HD int32_t image_radius(float extent, float variance) { return int32_t(ceilf(extent * sqrtf(variance))); }

SPLAT_HD void project_image_gaussian(const ProjectImageParams& p, int64_t i) {
  const float x = p.means[2 * i], y = p.means[2 * i + 1];
  const float log_scale1 = p.log_scales[2 * i], log_scale2 = p.log_scales[2 * i + 1];
  const Precisions<float> axes = axes_precisions(log_scale1, log_scale2, p.dilation);
  const Conic<float> q = rotated_conic(axes.p, axes.q, p.angles[i]);
  const float opacity = p.opacities[i] * axes.compensation, det = axes.p * axes.q;
  int32_t rx = 0, ry = 0;
  float conic[3] = {0.0f, 0.0f, 0.0f}, drawn = 0.0f;
  const float variance_x = q.c / det, variance_y = q.a / det;
  const bool drawable = finite(x) && finite(y) && finite(log_scale1) && finite(log_scale2) && finite(variance_x) &&
                        finite(variance_y) && finite(q.b);
  if (drawable && opacity >= p.cutoff && finite(opacity)) {
    const float extent = sqrtf(2.0f * logf(opacity / p.cutoff));
    const float limit = 1e9f;  // so that the conversion to int32 is defined
    rx = image_radius(extent, variance_x < limit ? variance_x : limit) + 1;
    ry = image_radius(extent, variance_y < limit ? variance_y : limit) + 1;
    if (x + float(rx) <= 0 || x - float(rx) >= float(p.grid.width) || y + float(ry) <= 0 ||
        y - float(ry) >= float(p.grid.height))
      rx = ry = 0;
    conic[0] = q.a, conic[1] = q.b, conic[2] = q.c, drawn = opacity;
  }
  p.radii[2 * i] = rx;
  p.radii[2 * i + 1] = ry;
  for (int k = 0; k < 3; ++k) p.conics[3 * i + k] = conic[k];
  p.opacities2d[i] = drawn;
}

SPLAT_HD void project_image_vjp(const ProjectImageGrads& g, int64_t i) {
  AxesGradient<float> v{0.0f, 0.0f, 0.0f};
  float v_opacity = 0.0f;
  if (g.radii[2 * i] > 0) {
    const float log_scale1 = g.log_scales[2 * i], log_scale2 = g.log_scales[2 * i + 1];
    v = axes_to_conic_vjp(log_scale1, log_scale2, g.angles[i], g.dilation,
                          {g.v_conics[3 * i], g.v_conics[3 * i + 1], g.v_conics[3 * i + 2]},
                          g.opacities[i] * g.v_opacities2d[i]);
    v_opacity = axes_precisions(log_scale1, log_scale2, g.dilation).compensation * g.v_opacities2d[i];
  }
  g.v_log_scales[2 * i] = v.log_scale1;
  g.v_log_scales[2 * i + 1] = v.log_scale2;
  g.v_angles[i] = v.angle;
  g.v_opacities[i] = v_opacity;
}

}  // namespace splat
