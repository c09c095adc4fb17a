// Real spherical harmonics in the sign convention of 3DGS and gsplat, degree 0 to 4 (Sloan 2013, "Efficient spherical
// harmonic evaluation"). Templated on the value, so that Dual3 gives the derivative with respect to the direction.
#pragma once
#include "splat/constants.h"
#include "splat/linalg.h"

namespace splat {

constexpr int kMaxShBasis = (kMaxShDegree + 1) * (kMaxShDegree + 1);

// b[k], k < (degree + 1)^2, at the unit direction (x, y, z).
template <class T, class V>
SPLAT_HD void sh_basis(int degree, V x, V y, V z, V* b) {
  const auto c = [](double value) { return V(T(value)); };
  b[0] = c(0.28209479177387814);
  if (degree < 1) return;
  b[1] = c(-0.4886025119029199) * y;
  b[2] = c(0.4886025119029199) * z;
  b[3] = c(-0.4886025119029199) * x;
  if (degree < 2) return;
  const V xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z, d = xx - yy;
  b[4] = c(1.0925484305920792) * xy;
  b[5] = c(-1.0925484305920792) * yz;
  b[6] = c(0.31539156525252005) * (c(2) * zz - xx - yy);
  b[7] = c(-1.0925484305920792) * xz;
  b[8] = c(0.5462742152960396) * d;
  if (degree < 3) return;
  const V p = c(3) * xx - yy, q = xx - c(3) * yy;
  b[9] = c(-0.5900435899266435) * y * p;
  b[10] = c(2.890611442640554) * xy * z;
  b[11] = c(-0.4570457994644658) * y * (c(4) * zz - xx - yy);
  b[12] = c(0.3731763325901154) * z * (c(2) * zz - c(3) * (xx + yy));
  b[13] = c(-0.4570457994644658) * x * (c(4) * zz - xx - yy);
  b[14] = c(1.445305721320277) * z * d;
  b[15] = c(-0.5900435899266435) * x * q;
  if (degree < 4) return;
  b[16] = c(2.5033429417967046) * xy * d;
  b[17] = c(-1.7701307697799304) * yz * p;
  b[18] = c(0.9461746957575601) * xy * (c(7) * zz - c(1));
  b[19] = c(-0.6690465435572892) * yz * (c(7) * zz - c(3));
  b[20] = c(0.10578554691520431) * (zz * (c(35) * zz - c(30)) + c(3));
  b[21] = c(-0.6690465435572892) * xz * (c(7) * zz - c(3));
  b[22] = c(0.47308734787878004) * d * (c(7) * zz - c(1));
  b[23] = c(-1.7701307697799304) * xz * q;
  b[24] = c(0.6258357354491761) * (xx * q - yy * p);
}

// VJP of the normalisation d / |d|.
template <class T>
SPLAT_HD Vec3<T> normalize_vjp(const Vec3<T>& unit, T inverse_length, const Vec3<T>& v) {
  const T along = dot(unit, v);
  return {(v.x - along * unit.x) * inverse_length, (v.y - along * unit.y) * inverse_length,
          (v.z - along * unit.z) * inverse_length};
}

}  // namespace splat
