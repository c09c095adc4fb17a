// One float as a value of the blending formulae: what cpu/lanes.h supplies for a register of floats.
#pragma once
#include <math.h>

#include "splat/hd.h"

namespace splat {

// Relative error 2e-7 on a GPU, and 0 under the least normal number.
SPLAT_HD float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_exp2f(x);
#endif
}
// 1 / x of a positive normal number; on a GPU without the division's slow path: an approximation and one Newton step.
SPLAT_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return fmaf(y, fmaf(-x, y, 1.0f), y);
#else
  return 1.0f / x;
#endif
}
// a b + c and c - a b. On a GPU always fused, so that kernels that compute the same weight get the same bits.
SPLAT_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
SPLAT_HD float subtract_product(float c, float a, float b) {
#if defined(__CUDA_ARCH__)
  return fmaf(-a, b, c);
#else
  return c - a * b;
#endif
}
SPLAT_HD float minimum(float a, float b) { return a < b ? a : b; }
SPLAT_HD float maximum(float a, float b) { return a > b ? a : b; }
SPLAT_HD float square_root(float a) { return sqrtf(a); }
SPLAT_HD double square_root(double a) { return sqrt(a); }
SPLAT_HD float absolute(float a) { return fabsf(a); }
SPLAT_HD float negative_absolute(float a) { return -fabsf(a); }
SPLAT_HD float select(bool m, float a, float b) { return m ? a : b; }
SPLAT_HD float keep(bool m, float a) { return m ? a : 0.0f; }

}  // namespace splat
