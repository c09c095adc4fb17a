// From a 3D Gaussian to its 2D splat: covariance, EWA projection, dilation, conic. Each with its VJP below it.
#pragma once
#include "splat/constants.h"
#include "splat/linalg.h"

namespace splat {

template <class T>
struct Quat {
  T w, x, y, z;
};

// Rotation of q / |q|.
template <class T>
SPLAT_HD Mat3<T> rotation(const Quat<T>& q) {
  const T n = T(1) / root(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
  const T w = q.w * n, x = q.x * n, y = q.y * n, z = q.z * n;
  return {{{T(1) - T(2) * (y * y + z * z), T(2) * (x * y - w * z), T(2) * (x * z + w * y)},
           {T(2) * (x * y + w * z), T(1) - T(2) * (x * x + z * z), T(2) * (y * z - w * x)},
           {T(2) * (x * z - w * y), T(2) * (y * z + w * x), T(1) - T(2) * (x * x + y * y)}}};
}
template <class T>
SPLAT_HD Quat<T> rotation_vjp(const Quat<T>& q, const Mat3<T>& v) {
  const T n = T(1) / root(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
  const T w = q.w * n, x = q.x * n, y = q.y * n, z = q.z * n;
  const auto& m = v.m;
  const T vw = T(2) * (x * (m[2][1] - m[1][2]) + y * (m[0][2] - m[2][0]) + z * (m[1][0] - m[0][1]));
  const T vx = T(2) * (T(-2) * x * (m[1][1] + m[2][2]) + y * (m[0][1] + m[1][0]) + z * (m[0][2] + m[2][0]) +
                       w * (m[2][1] - m[1][2]));
  const T vy = T(2) * (x * (m[0][1] + m[1][0]) - T(2) * y * (m[0][0] + m[2][2]) + z * (m[1][2] + m[2][1]) +
                       w * (m[0][2] - m[2][0]));
  const T vz = T(2) * (x * (m[0][2] + m[2][0]) + y * (m[1][2] + m[2][1]) - T(2) * z * (m[0][0] + m[1][1]) +
                       w * (m[1][0] - m[0][1]));
  const T along = vw * w + vx * x + vy * y + vz * z;  // the normalisation removes the radial part
  return {(vw - along * w) * n, (vx - along * x) * n, (vy - along * y) * n, (vz - along * z) * n};
}

// R diag(s^2) R^T.
template <class T>
SPLAT_HD Mat3<T> covariance(const Mat3<T>& R, const Vec3<T>& s) {
  Mat3<T> M = R;
  for (int i = 0; i < 3; ++i) M.m[i][0] *= s.x, M.m[i][1] *= s.y, M.m[i][2] *= s.z;
  return mul_transposed(M, M);
}
// v is dL/d(covariance), symmetric or not.
template <class T>
SPLAT_HD void covariance_vjp(const Mat3<T>& R, const Vec3<T>& s, const Mat3<T>& v, Mat3<T>& v_R, Vec3<T>& v_s) {
  const T scale[3] = {s.x, s.y, s.z};
  T out[3];
  for (int j = 0; j < 3; ++j) {
    out[j] = T(0);
    for (int i = 0; i < 3; ++i) {
      T v_M = T(0);  // ((v + v^T) M)_ij
      for (int k = 0; k < 3; ++k) v_M += (v.m[i][k] + v.m[k][i]) * R.m[k][j] * scale[j];
      v_R.m[i][j] = v_M * scale[j];
      out[j] += v_M * R.m[i][j];
    }
  }
  v_s = {out[0], out[1], out[2]};
}

// J S J^T.
template <class T>
SPLAT_HD Sym2<T> project_covariance(const Mat23<T>& J, const Mat3<T>& S) {
  T JS[2][3];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j) JS[i][j] = J.m[i][0] * S.m[0][j] + J.m[i][1] * S.m[1][j] + J.m[i][2] * S.m[2][j];
  const auto entry = [&](int i, int j) { return JS[i][0] * J.m[j][0] + JS[i][1] * J.m[j][1] + JS[i][2] * J.m[j][2]; };
  return {entry(0, 0), entry(0, 1), entry(1, 1)};
}
// v: b is the derivative with respect to one off-diagonal entry of the full matrix.
template <class T>
SPLAT_HD void project_covariance_vjp(const Mat23<T>& J, const Mat3<T>& S, const Sym2<T>& v, Mat23<T>& v_J, Mat3<T>& v_S) {
  const T G[2][2] = {{v.a, v.b}, {v.b, v.c}};
  T GJ[2][3];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j) GJ[i][j] = G[i][0] * J.m[0][j] + G[i][1] * J.m[1][j];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) v_S.m[i][j] = J.m[0][i] * GJ[0][j] + J.m[1][i] * GJ[1][j];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      v_J.m[i][j] = T(2) * (GJ[i][0] * S.m[0][j] + GJ[i][1] * S.m[1][j] + GJ[i][2] * S.m[2][j]);
}

// Dilated covariance, its inverse, and by how much the dilation dims the splat (Mip-Splatting, Yu et al. 2024, eq. 9).
template <class T>
struct Dilated {
  Sym2<T> cov, conic;
  T compensation;
  bool valid;
};
template <class T>
SPLAT_HD Dilated<T> dilate(const Sym2<T>& cov, T eps2d) {
  Dilated<T> r;
  r.cov = {cov.a + eps2d, cov.b, cov.c + eps2d};
  const T det = r.cov.a * r.cov.c - cov.b * cov.b, inverse = T(1) / det;
  r.valid = det > T(0);
  r.conic = {r.cov.c * inverse, -cov.b * inverse, r.cov.a * inverse};
  const T ratio = (cov.a * cov.c - cov.b * cov.b) * inverse, least = T(kCompensationMin) * T(kCompensationMin);
  r.compensation = root(ratio > least ? ratio : least);
  return r;
}
// v_conic.b is the derivative with respect to the conic's one off-diagonal value; the result's b is per matrix entry.
template <class T>
SPLAT_HD Sym2<T> dilate_vjp(const Sym2<T>& cov, const Dilated<T>& r, const Sym2<T>& v_conic, T v_compensation) {
  const Sym2<T>& q = r.conic;
  const T h = T(0.5) * v_conic.b;  // dL/dcov = -Q V Q
  const T p00 = q.a * v_conic.a + q.b * h, p01 = q.a * h + q.b * v_conic.c;
  const T p10 = q.b * v_conic.a + q.c * h, p11 = q.b * h + q.c * v_conic.c;
  Sym2<T> v = {-(p00 * q.a + p01 * q.b), -(p00 * q.b + p01 * q.c), -(p10 * q.b + p11 * q.c)};
  if (r.compensation > T(kCompensationMin)) {
    const T det = r.cov.a * r.cov.c - r.cov.b * r.cov.b, ratio = r.compensation * r.compensation;
    const T v_ratio = v_compensation * T(0.5) / r.compensation;
    v.a += v_ratio * (cov.c - ratio * r.cov.c) / det;
    v.c += v_ratio * (cov.a - ratio * r.cov.a) / det;
    v.b += v_ratio * (ratio - T(1)) * cov.b / det;
  }
  return v;
}

}  // namespace splat
