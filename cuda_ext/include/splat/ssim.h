// SSIM at one pixel (Wang et al. 2004, eq. 13) from the windowed means of a picture and its target, and its derivatives.
#pragma once
#include "splat/hd.h"

namespace splat {

constexpr int kSsimTaps = 11;
// Gaussian window of sigma 1.5, normalised, `distance` taps from its centre. A function: an array would not exist on a GPU.
SPLAT_HD float ssim_window(int distance) {
  constexpr float window[kSsimTaps / 2 + 1] = {0.26601171f, 0.21300553f, 0.10936069f,
                                               0.03600077f, 0.00759876f, 0.00102838f};
  return window[distance];
}
constexpr float kSsimC1 = 0.01f * 0.01f, kSsimC2 = 0.03f * 0.03f;  // for values in 0..1

// mu1, mu2: windowed means of picture and target; squares: of the sum of both squares; product: of their product.
template <class V>
SPLAT_HD V ssim(V mu1, V mu2, V squares, V product) {
  const V means = mu1 * mu2, both = mu1 * mu1 + mu2 * mu2;
  const V n = (V(2.0f) * means + V(kSsimC1)) * (V(2.0f) * (product - means) + V(kSsimC2));
  return n / ((both + V(kSsimC1)) * (squares - both + V(kSsimC2)));
}

template <class V>
struct SsimGradient {
  V mu1, squares, product;
};
template <class V>
SPLAT_HD SsimGradient<V> ssim_vjp(V mu1, V mu2, V squares, V product) {
  const V means = mu1 * mu2, both = mu1 * mu1 + mu2 * mu2;
  const V a = V(2.0f) * means + V(kSsimC1), b = V(2.0f) * (product - means) + V(kSsimC2);
  const V c = both + V(kSsimC1), d = squares - both + V(kSsimC2);
  const V inverse = V(1.0f) / (c * d), s = a * b * inverse;
  SsimGradient<V> g;
  g.product = V(2.0f) * a * inverse;
  g.squares = V(0.0f) - s * c * inverse;  // c inverse = 1 / d: one division for all
  g.mu1 = V(2.0f) * inverse * (mu2 * (b - a) + mu1 * s * (c - d));
  return g;
}

}  // namespace splat
