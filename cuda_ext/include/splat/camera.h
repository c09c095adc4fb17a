// Camera models: where a point of the camera frame (OpenCV: x right, y down, z forward) lands, and the Jacobian of that
// map, which carries the covariance (EWA splatting, Zwicker et al. 2001, eq. 29).
#pragma once
#include "splat/constants.h"
#include "splat/linalg.h"

namespace splat {

enum class CameraModel : int { kPinhole = 0, kOrtho = 1, kFisheye = 2 };

template <class T>
struct Intrinsics {
  T fx, fy, cx, cy;  // pixels
  int width, height;
};
template <class T>
struct Projection {
  T x, y;      // pixels
  Mat23<T> J;  // d(x, y) / d(point)
};

// The affine approximation explodes at grazing angles, so the pinhole Jacobian is taken at a ratio x/z kept within the
// picture plus a margin (3DGS). Returns the bounded ratio; `side` tells which bound holds (0: none).
template <class T>
SPLAT_HD T bounded_ratio(T ratio, T f, T c, int size, int& side) {
  const T margin = T(kFovMargin) * T(0.5) * T(size) / f;
  const T high = (T(size) - c) / f + margin, low = -c / f - margin;
  side = ratio > high ? 1 : (ratio < low ? -1 : 0);
  return side > 0 ? high : (side < 0 ? low : ratio);
}

// Fisheye, equidistant: image radius = f * angle to the axis. Templated on the value so that Dual3 differentiates it.
template <class V>
struct FisheyePoint {
  V x, y, J00, J01, J02, J11, J12;  // before the focal lengths
};
template <class T, class V>
SPLAT_HD FisheyePoint<V> fisheye(V x, V y, V z, T r2_value, T z_value) {
  const V r2 = x * x + y * y, n = r2 + z * z;
  V angle_over_r = V(T(0)), B = V(T(0));
  if (z_value > T(0) && r2_value < T(1e-6) * z_value * z_value) {  // series in r / z: the quotients are 0 / 0 on the axis
    const V iz = V(T(1)) / z, iz3 = iz * iz * iz;
    angle_over_r = iz - r2 * iz3 * V(T(1.0 / 3.0));
    B = V(T(-2.0 / 3.0)) * iz3 + V(T(0.8)) * r2 * iz3 * iz * iz;
  } else {
    const V r = root(r2);
    angle_over_r = arctan2(r, z) / r;
    B = (z / n - angle_over_r) / r2;
  }
  return {x * angle_over_r,         y * angle_over_r, angle_over_r + x * x * B, x * y * B, V(T(0)) - x / n,
          angle_over_r + y * y * B, V(T(0)) - y / n};
}

template <class T>
SPLAT_HD Projection<T> project_point(CameraModel model, const Intrinsics<T>& k, const Vec3<T>& p) {
  if (model == CameraModel::kOrtho)
    return {k.fx * p.x + k.cx, k.fy * p.y + k.cy, {{{k.fx, T(0), T(0)}, {T(0), k.fy, T(0)}}}};
  if (model == CameraModel::kFisheye) {
    const FisheyePoint<T> f = fisheye<T>(p.x, p.y, p.z, p.x * p.x + p.y * p.y, p.z);
    return {k.fx * f.x + k.cx,
            k.fy * f.y + k.cy,
            {{{k.fx * f.J00, k.fx * f.J01, k.fx * f.J02}, {k.fy * f.J01, k.fy * f.J11, k.fy * f.J12}}}};
  }
  const T iz = T(1) / p.z;
  int side;
  const T rx = bounded_ratio(p.x * iz, k.fx, k.cx, k.width, side), ry = bounded_ratio(p.y * iz, k.fy, k.cy, k.height, side);
  return {k.fx * p.x * iz + k.cx,
          k.fy * p.y * iz + k.cy,
          {{{k.fx * iz, T(0), -k.fx * rx * iz}, {T(0), k.fy * iz, -k.fy * ry * iz}}}};
}

template <class T>
struct IntrinsicsGradient {
  T fx, fy, cx, cy;
};

// One axis of the pinhole: image coordinate u = f s / z + c, Jacobian entries f / z and -f ratio / z.
template <class T>
SPLAT_HD void pinhole_axis_vjp(T f, T c, int size, T s, T z, T v_u, T v_J0, T v_J2, T& v_s, T& v_z, T& v_f, T& v_c) {
  const T iz = T(1) / z;
  int side;
  const T ratio = bounded_ratio(s * iz, f, c, size, side);
  v_s += v_u * f * iz;
  v_z += -v_u * f * s * iz * iz - v_J0 * f * iz * iz;
  v_f += v_u * s * iz + v_J0 * iz;
  v_c += v_u;
  if (side == 0) {
    v_s += -v_J2 * f * iz * iz;
    v_z += v_J2 * T(2) * f * ratio * iz * iz;
    v_f += -v_J2 * ratio * iz;
  } else {  // f ratio = (size - c + margin) or -(c + margin): no longer depends on s or f
    v_z += v_J2 * f * ratio * iz * iz;
    v_c += v_J2 * iz;
  }
}

// VJP of project_point for (v_x, v_y, v_J); adds to v_p and v_k.
template <class T>
SPLAT_HD void project_point_vjp(CameraModel model, const Intrinsics<T>& k, const Vec3<T>& p, T v_x, T v_y,
                                const Mat23<T>& v_J, Vec3<T>& v_p, IntrinsicsGradient<T>& v_k) {
  if (model == CameraModel::kPinhole) {
    pinhole_axis_vjp(k.fx, k.cx, k.width, p.x, p.z, v_x, v_J.m[0][0], v_J.m[0][2], v_p.x, v_p.z, v_k.fx, v_k.cx);
    pinhole_axis_vjp(k.fy, k.cy, k.height, p.y, p.z, v_y, v_J.m[1][1], v_J.m[1][2], v_p.y, v_p.z, v_k.fy, v_k.cy);
    return;
  }
  v_k.cx += v_x;
  v_k.cy += v_y;
  if (model == CameraModel::kOrtho) {
    v_p.x += v_x * k.fx;
    v_p.y += v_y * k.fy;
    v_k.fx += v_x * p.x + v_J.m[0][0];
    v_k.fy += v_y * p.y + v_J.m[1][1];
    return;
  }
  using D = Dual3<T>;
  const FisheyePoint<D> f = fisheye<T>(D(p.x, 0), D(p.y, 1), D(p.z, 2), p.x * p.x + p.y * p.y, p.z);
  v_k.fx += v_x * f.x.v + v_J.m[0][0] * f.J00.v + v_J.m[0][1] * f.J01.v + v_J.m[0][2] * f.J02.v;
  v_k.fy += v_y * f.y.v + v_J.m[1][0] * f.J01.v + v_J.m[1][1] * f.J11.v + v_J.m[1][2] * f.J12.v;
  T* v[3] = {&v_p.x, &v_p.y, &v_p.z};
  for (int i = 0; i < 3; ++i)
    *v[i] += k.fx * (v_x * f.x.d[i] + v_J.m[0][0] * f.J00.d[i] + v_J.m[0][1] * f.J01.d[i] + v_J.m[0][2] * f.J02.d[i]) +
             k.fy * (v_y * f.y.d[i] + v_J.m[1][0] * f.J01.d[i] + v_J.m[1][1] * f.J11.d[i] + v_J.m[1][2] * f.J12.d[i]);
}

}  // namespace splat
