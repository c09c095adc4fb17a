// The 2D front end: a Gaussian of an image is given by two standard deviations (as logs) and the angle of the first axis.
#pragma once
#include <math.h>

#include "splat/hd.h"

namespace splat {

template <class T>
struct Conic {
  T a, b, c;  // sigma = a dx^2 / 2 + b dx dy + c dy^2 / 2
};
template <class T>
struct AxesGradient {
  T log_scale1, log_scale2, angle;
};

// Inverse of R diag(s1^2, s2^2) R^T with R the rotation by `angle` (x right, y down).
template <class T>
SPLAT_HD Conic<T> axes_to_conic(T log_scale1, T log_scale2, T angle) {
  const T p = exp(T(-2) * log_scale1), q = exp(T(-2) * log_scale2), cs = cos(angle), sn = sin(angle);
  return {p * cs * cs + q * sn * sn, (p - q) * cs * sn, p * sn * sn + q * cs * cs};
}
template <class T>
SPLAT_HD AxesGradient<T> axes_to_conic_vjp(T log_scale1, T log_scale2, T angle, const Conic<T>& v) {
  const T p = exp(T(-2) * log_scale1), q = exp(T(-2) * log_scale2), cs = cos(angle), sn = sin(angle);
  const T v_p = v.a * cs * cs + v.b * cs * sn + v.c * sn * sn;
  const T v_q = v.a * sn * sn - v.b * cs * sn + v.c * cs * cs;
  const T v_angle = (p - q) * (T(2) * cs * sn * (v.c - v.a) + v.b * (cs * cs - sn * sn));
  return {T(-2) * p * v_p, T(-2) * q * v_q, v_angle};
}

}  // namespace splat
