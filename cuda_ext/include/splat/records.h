// The backward pass leaves one record of sums per entry: the moments, the colours, with absgrad two absolute sums. What a
// splat's records add up to becomes its gradients here, on every backend.
#pragma once
#include <stdint.h>

#include "splat/blend.h"
#include "splat/params.h"

namespace splat {

constexpr int kMoments = 6;  // SplatMoments

SPLAT_HD int record_size(int channels, bool abs) { return kMoments + channels + (abs ? 2 : 0); }

// Writes the gradients of splat s. total(k): value k of its records' sum, in the order above.
template <class Total>
SPLAT_HD void write_splat_gradients(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, int64_t s,
                                    int channels, Total&& total) {
  const bool drawn = p.lists.splat_offsets[s + 1] > p.lists.splat_offsets[s];  // else it may be degenerate
  SplatGradient v{};
  if (drawn)
    v = splat_vjp(splats[s], {total(0), total(1), total(2), total(3), total(4), total(5)}, p.splats.opacities[s]);
  g.v_means2d[2 * s] = v.x;
  g.v_means2d[2 * s + 1] = v.y;
  g.v_conics[3 * s] = v.a;
  g.v_conics[3 * s + 1] = v.b;
  g.v_conics[3 * s + 2] = v.c;
  g.v_opacities[s] = v.opacity;
  for (int d = 0; d < channels; ++d) g.v_colors[s * channels + d] = total(kMoments + d);
  if (g.v_means2d_abs == nullptr) return;
  g.v_means2d_abs[2 * s] = drawn ? kTwoLn2 * splats[s].ux * total(kMoments + channels) : 0.0f;
  g.v_means2d_abs[2 * s + 1] = drawn ? kTwoLn2 * total(kMoments + channels + 1) : 0.0f;
}

}  // namespace splat
