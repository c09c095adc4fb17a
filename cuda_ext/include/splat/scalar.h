// One float as a value of the blending formulae: what cpu/lanes.h supplies for a register of floats.
#pragma once
#include <math.h>

#include "splat/hd.h"

namespace splat {

SPLAT_HD float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  return exp2f(x);  // one instruction under -use_fast_math
#else
  return __builtin_exp2f(x);
#endif
}
SPLAT_HD float minimum(float a, float b) { return a < b ? a : b; }
SPLAT_HD float maximum(float a, float b) { return a > b ? a : b; }
SPLAT_HD float square_root(float a) { return sqrtf(a); }
SPLAT_HD double square_root(double a) { return sqrt(a); }
SPLAT_HD float negative_absolute(float a) { return -fabsf(a); }
SPLAT_HD float select(bool m, float a, float b) { return m ? a : b; }
SPLAT_HD float keep(bool m, float a) { return m ? a : 0.0f; }

}  // namespace splat
