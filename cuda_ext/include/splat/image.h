// The 2D front end: a Gaussian of an image is given by two standard deviations (as logs) and the angle of the first axis.
#pragma once
#include <math.h>

#include "splat/ewa.h"
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

// Inverse variances along the two axes, after `dilation` (pixels^2), and by how much it dims the Gaussian. The dilation is
// that of the 3D front end, in the frame of the axes: there the covariance is diagonal, and nothing cancels for thin
// Gaussians.
template <class T>
struct Precisions {
  T p, q, compensation;
};
template <class T>
SPLAT_HD Sym2<T> axes_covariance(T log_scale1, T log_scale2) {
  return {exp(T(2) * log_scale1), T(0), exp(T(2) * log_scale2)};
}
template <class T>
SPLAT_HD Precisions<T> axes_precisions(T log_scale1, T log_scale2, T dilation) {
  if (dilation == T(0)) return {exp(T(-2) * log_scale1), exp(T(-2) * log_scale2), T(1)};
  const Dilated<T> r = dilate(axes_covariance(log_scale1, log_scale2), dilation);
  return {r.conic.a, r.conic.c, r.compensation};
}

// Precision matrix of the axes p and q, the first of them at `angle` (x right, y down).
template <class T>
SPLAT_HD Conic<T> rotated_conic(T p, T q, T angle) {
  const T cs = cos(angle), sn = sin(angle);
  return {p * cs * cs + q * sn * sn, (p - q) * cs * sn, p * sn * sn + q * cs * cs};
}
// VJP of axes_precisions and rotated_conic together.
template <class T>
SPLAT_HD AxesGradient<T> axes_to_conic_vjp(T log_scale1, T log_scale2, T angle, T dilation, const Conic<T>& v,
                                           T v_compensation) {
  const Precisions<T> r = axes_precisions(log_scale1, log_scale2, dilation);
  const T cs = cos(angle), sn = sin(angle);
  const T v_p = v.a * cs * cs + v.b * cs * sn + v.c * sn * sn;
  const T v_q = v.a * sn * sn - v.b * cs * sn + v.c * cs * cs;
  const T v_angle = (r.p - r.q) * (T(2) * cs * sn * (v.c - v.a) + v.b * (cs * cs - sn * sn));
  if (dilation == T(0)) return {T(-2) * r.p * v_p, T(-2) * r.q * v_q, v_angle};
  const Sym2<T> cov = axes_covariance(log_scale1, log_scale2);
  const Sym2<T> v_cov = dilate_vjp(cov, dilate(cov, dilation), {v_p, T(0), v_q}, v_compensation);
  return {T(2) * cov.a * v_cov.a, T(2) * cov.c * v_cov.c, v_angle};
}

}  // namespace splat
