// Blending: the weight of a splat at a pixel, the compositors, and their derivatives. Templated on the value type V:
// one float per thread in CUDA, one register of lanes on the CPU (cpu/lanes.h supplies the operators).
//
// The exponent is written as a sum of two squares by the Cholesky factor of the conic, in units of log2:
//   log2(alpha) = bias - u^2 - v^2,   u = ux dx + uy dy,   v = vy dy.
// That costs five fused operations a pixel, and unlike a dx^2 + 2 b dx dy + c dy^2 it does not cancel for thin splats.
#pragma once
#include <math.h>
#include <stdint.h>

#include "splat/constants.h"
#include "splat/hd.h"
#include "splat/scalar.h"

namespace splat {

// How the weights of a pixel's splats become its colour.
enum class Blend : int32_t { kAlpha = 0, kSum = 1, kTopK = 2 };

constexpr double kLog2E = 1.4426950408889634;
constexpr float kTwoLn2 = 1.3862943611198906f;

// One projected splat, ready to blend. bias = log2(opacity); a culled splat has bias = -infinity.
struct alignas(8) Splat2D {
  float x, y;        // centre, pixels
  float ux, uy, vy;  // Cholesky factor of the conic times log2(e)/2
  float bias;
};

// log2 of a positive finite float, absolute error 1e-7 beside its own rounding. Branch-free, so that a loop vectorises.
SPLAT_HD float log2_fast(float x) {
#if defined(__CUDA_ARCH__)
  return __log2f(x);
#else
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  const int32_t mantissa_bits = bits - (exponent << 23);
  float m;
  __builtin_memcpy(&m, &mantissa_bits, sizeof m);
  const float r = (m - 1.0f) / (m + 1.0f), r2 = r * r;  // log(m) = 2 atanh(r)
  const float series = 2.0f + r2 * (0.66666667f + r2 * (0.4f + r2 * (0.28571429f + r2 * 0.22222222f)));
  return float(exponent) + float(kLog2E) * (r * series);
#endif
}

// a c - b^2. A plain float determinant of a thin splat has no digits left: it is taken in double or, on GPUs, where that is
// slow, in float with the rounding errors of the products added back (Kahan; Jeannerod, Louvet & Muller 2013).
SPLAT_HD double determinant(double a, double b, double c) { return a * c - b * b; }
SPLAT_HD float determinant(float a, float b, float c) {
  const float square = b * b, error = fmaf(-b, b, square);
  return fmaf(a, c, -square) + error;
}

// conic (a, b, c): sigma = a dx^2 / 2 + b dx dy + c dy^2 / 2. Where the conic is not positive definite or the opacity is
// under the cutoff the bias is -infinity (culled). Real: what the factor is computed in.
template <class Real>
SPLAT_HD Splat2D make_splat_in(float x, float y, float a, float b, float c, float opacity, float log2_cutoff) {
  const Real half = Real(0.5 * kLog2E), det = determinant(Real(a), Real(b), Real(c));
  const bool valid = (a > 0.0f) & (det > Real(0)) & (opacity > 0.0f) & (x - x == 0.0f) & (y - y == 0.0f);
  const Real safe_a = valid ? Real(a) : Real(1), safe_det = valid ? det : Real(1);
  const Real ux = square_root(half * safe_a), inverse = Real(1) / safe_a;
  const float bias = log2_fast(valid ? opacity : 1.0f);
  const bool drawn = valid & (bias >= log2_cutoff);
  return {x, y, float(ux), float(ux * b * inverse), float(square_root(half * safe_det * inverse)), drawn ? bias : -INFINITY};
}
SPLAT_HD Splat2D make_splat(float x, float y, float a, float b, float c, float opacity, float log2_cutoff) {
#if defined(__CUDA_ARCH__)
  return make_splat_in<float>(x, y, a, b, c, opacity, log2_cutoff);
#else
  return make_splat_in<double>(x, y, a, b, c, opacity, log2_cutoff);
#endif
}

// The sums over pixels that a splat's gradients are made of. g = dL/d(ln alpha) at a pixel.
struct SplatMoments {
  float g, gu, gv, guu, guv, gvv;
};
struct SplatGradient {
  float x, y;     // dL/d(centre)
  float a, b, c;  // dL/d(conic); b stands for both off-diagonal entries
  float opacity;
};

// With s = splat (VJP of make_splat and of the exponent together): d sigma/du = 2 ln2 u, and dx, dy follow from u, v.
SPLAT_HD SplatGradient splat_vjp(const Splat2D& s, const SplatMoments& m, float opacity) {
  SplatGradient r;
  r.x = kTwoLn2 * s.ux * m.gu;
  r.y = kTwoLn2 * (s.uy * m.gu + s.vy * m.gv);
  const float iu = 1.0f / s.ux, iv = 1.0f / s.vy, k = s.uy * iv;
  r.a = -0.5f * iu * iu * (m.guu - 2.0f * k * m.guv + k * k * m.gvv);
  r.b = -iu * iv * (m.guv - k * m.gvv);
  r.c = -0.5f * iv * iv * m.gvv;
  r.opacity = m.g / opacity;
  return r;
}

// A splat with u and v relative to an origin near both it and the pixels (the tile's corner).
struct LocalSplat {
  float ux, uy, u0, vy, v0, bias;
};
SPLAT_HD LocalSplat localize(const Splat2D& s, float origin_x, float origin_y) {
  const float x = s.x - origin_x, y = s.y - origin_y;
  return {s.ux, s.uy, -multiply_add(s.ux, x, s.uy * y), s.vy, -s.vy * y, s.bias};
}
template <class V>
SPLAT_HD V splat_u(const LocalSplat& s, V px, V py) {
  return multiply_add(V(s.ux), px, multiply_add(V(s.uy), py, V(s.u0)));
}
template <class V>
SPLAT_HD V splat_v(const LocalSplat& s, V py) {
  return multiply_add(V(s.vy), py, V(s.v0));
}
template <class V>
SPLAT_HD V log2_alpha(const LocalSplat& s, V px, V py) {
  const V u = splat_u(s, px, py), v = splat_v(s, py);
  return subtract_product(subtract_product(V(s.bias), v, v), u, u);
}

// What a pixel adds to the sums of a splat, g = dL/d(ln alpha) there: the moments in their order, and the absolute gradients
// of the mean that absgrad wants, over 2 ln2 (the first of them over ux too).
template <class V>
struct PixelShare {
  V moments[6], absolutes[2];
};
template <class V>
SPLAT_HD PixelShare<V> pixel_share(const LocalSplat& s, V px, V py, V g) {
  const V u = splat_u(s, px, py), v = splat_v(s, py), gu = g * u, gv = g * v;
  return {{g, gu, gv, gu * u, gu * v, gv * v}, {absolute(gu), absolute(V(s.uy) * gu + V(s.vy) * gv)}};
}

// ---- alpha: front-to-back compositing with transmittance (3DGS, eq. 3) ------------------------------------------------
// T > 0 while the pixel is open; a stopped pixel keeps -T, so that no separate flag is carried. raw = the Gaussian's alpha
// before the clamp, 0 where it is under the cutoff (which changes nothing).
template <class V>
SPLAT_HD V alpha_weight(V raw, V T) {
  return T * minimum(raw, V(kAlphaMax));
}
template <class V>
SPLAT_HD V alpha_step(V raw, V& T) {
  const V weight = alpha_weight(raw, T), next = T - weight;
  const auto open = next > V(kTransmittanceMin);
  T = select(open, next, negative_absolute(T));
  return keep(open, weight);
}

// Back to front. In: raw, 0 where the forward pass did not draw the splat; T behind the splat, vc = colour . dL/dcolour,
// behind = what lies behind, weighted (sum of vc_j w_j over later splats + dL/dT_final T_final).
// Out: T before the splat, weight, g = dL/d(ln raw).
template <class V>
SPLAT_HD V alpha_step_vjp(V raw, V vc, V& T, V& behind, V& weight) {
  const V alpha = minimum(raw, V(kAlphaMax));
  const V inverse = reciprocal(V(1.0f) - alpha);
  T = T * inverse;
  weight = alpha * T;
  const V v_alpha = vc * T - behind * inverse;
  behind = behind + vc * weight;
  return keep(raw < V(kAlphaMax), alpha * v_alpha);  // at the clamp alpha is constant
}

// ---- sum and topk: order-free ---------------------------------------------------------------------------------------
// A weight is the plain Gaussian, not clamped; topk divides by the sum of the K largest plus kTopKEpsilon.
constexpr float kTopKEpsilon = 1e-4f;  // Image-GS, tiled kernel

// dL/d(ln w) of a splat, with weight = w scale (see finish_pixel) and vc = colour . dL/dC + base (see finish_vjp).
template <class V>
SPLAT_HD V order_free_vjp(V weight, V vc) {
  return weight * vc;
}

// ---- the end of a pixel ----------------------------------------------------------------------------------------------
// C = scale sum + behind background. `value` is what the compositor carried: alpha: the transmittance (negative where the
// pixel stopped); sum: the sum of all weights; topk: of the K largest.
struct PixelFinish {
  float scale, behind, alpha;
};
template <Blend kBlend>
SPLAT_HD PixelFinish finish_pixel(float value) {
  if (kBlend == Blend::kAlpha) return {1.0f, fabsf(value), 1.0f - fabsf(value)};
  if (kBlend == Blend::kSum) return {1.0f, 1.0f, value};
  const float scale = 1.0f / (value + kTopKEpsilon);
  return {scale, kTopKEpsilon * scale, value * scale};
}
// What the backward pass of the splats starts from. v_alpha = dL/dalpha, v_background = background . dL/dC, v_image =
// C . dL/dC. alpha: dL/dT_final T_final, `behind` of alpha_step_vjp; sum: dL/dalpha; topk: the quotient rule, whose second
// term is the same for all splats of the pixel (the background's share is part of C).
template <Blend kBlend>
SPLAT_HD float finish_vjp(const PixelFinish& f, float v_alpha, float v_background, float v_image) {
  if (kBlend == Blend::kAlpha) return (v_background - v_alpha) * f.behind;
  if (kBlend == Blend::kSum) return v_alpha;
  return v_alpha * f.behind - v_image;
}

}  // namespace splat
