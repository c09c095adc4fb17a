// One Gaussian's colour from spherical harmonics, max(sum_k b_k(direction) c_k + 0.5, 0), and back. The kernels of every
// backend are loops around these functions.
#pragma once
#include <stdint.h>

#include "splat/params.h"
#include "splat/sh.h"

namespace splat {

template <class T>
struct View {
  const T* v;  // view matrix
  // Camera centre: -R^T t.
  SPLAT_HD Vec3<T> centre() const {
    return {-(v[0] * v[3] + v[4] * v[7] + v[8] * v[11]), -(v[1] * v[3] + v[5] * v[7] + v[9] * v[11]),
            -(v[2] * v[3] + v[6] * v[7] + v[10] * v[11])};
  }
  // sums: the twelve entries of [R t], rows.
  SPLAT_HD void centre_vjp(const Vec3<T>& g, T* sums) const {
    const T gs[3] = {g.x, g.y, g.z};
    for (int r = 0; r < 3; ++r) {
      T v_t = T(0);
      for (int k = 0; k < 3; ++k) {
        sums[4 * r + k] = -gs[k] * v[4 * r + 3];
        v_t -= gs[k] * v[4 * r + k];
      }
      sums[4 * r + 3] = v_t;
    }
  }
};

template <class T>
struct Direction {
  Vec3<T> unit;
  T inverse_length;
};
template <class T>
SPLAT_HD Direction<T> direction(const T* mean, const Vec3<T>& centre) {
  const Vec3<T> d = {mean[0] - centre.x, mean[1] - centre.y, mean[2] - centre.z};
  const T squared = dot(d, d);
  const T inverse = squared > T(0) ? T(1) / root(squared) : T(0);
  return {{d.x * inverse, d.y * inverse, d.z * inverse}, inverse};
}

// The degree and the number of channels where they are constants of the kernel (kDegree, kFixed), else -1 and 0.
template <int kDegree, int kFixed, class T>
SPLAT_HD int sh_degree(const ShParams<T>& p) { return kDegree >= 0 ? kDegree : p.degree; }
template <int kDegree, int kFixed, class T>
SPLAT_HD int sh_channels(const ShParams<T>& p) { return kFixed ? kFixed : p.channels; }

// Colour of Gaussian i for camera c, whose centre is given.
template <class T, int kDegree, int kFixed>
SPLAT_HD void sh_color(const ShParams<T>& p, const Vec3<T>& centre, int64_t c, int64_t i) {
  const int degree = sh_degree<kDegree, kFixed>(p), basis = (degree + 1) * (degree + 1);
  const int D = sh_channels<kDegree, kFixed>(p);
  T* color = p.colors + (c * p.count + i) * D;
  for (int d = 0; d < D; ++d) color[d] = T(0);
  if (p.radii[2 * (c * p.count + i)] <= 0) return;
  const Vec3<T> u = direction(p.means + 3 * i, centre).unit;
  T b[kMaxShBasis];
  sh_basis<T>(degree, u.x, u.y, u.z, b);
  for (int d = 0; d < D; ++d) {
    T sum = b[0] * p.sh0[i * D + d] + T(0.5);
    for (int k = 1; k < basis; ++k) sum += b[k] * p.shN[i * p.stride + (k - 1) * D + d];
    color[d] = sum < T(0) && finite(sum) ? T(0) : sum;  // what is not finite stays so: bin leaves it out
  }
}

// Zeroes the gradients of Gaussian i, to which sh_color_vjp adds.
template <class T, int kDegree, int kFixed>
SPLAT_HD void clear_sh(const ShParams<T>& p, const ShGrads<T>& g, int64_t i) {
  const int D = sh_channels<kDegree, kFixed>(p);
  for (int d = 0; d < D; ++d) g.v_sh0[i * D + d] = T(0);
  for (int64_t k = 0; k < p.stride; ++k) g.v_shN[i * p.stride + k] = T(0);
  for (int k = 0; k < 3; ++k) g.v_means[3 * i + k] = T(0);
}

// VJP of sh_color for camera c. shN: the Gaussian's row of coefficients. add(k, d, v): takes dL/d(coefficient k of channel d), for the bands in use, after the
// coefficient was read. v_mean and camera, dL/d(mean) and dL/d[R t], are set; false (and nothing is done) where they are
// zero with all the rest: where the splat is culled or all of its v_colors are zero, as for the many splats that others
// hide, and for those whose coefficients are not finite.
template <class T, int kDegree, int kFixed, class Add>
SPLAT_HD bool sh_color_vjp(const ShParams<T>& p, const T* shN, const T* v_colors, int64_t c, int64_t i,
                           Vec3<T>& v_mean, T* camera, Add&& add) {
  const int degree = sh_degree<kDegree, kFixed>(p), basis = (degree + 1) * (degree + 1);
  const int D = sh_channels<kDegree, kFixed>(p);
  const int64_t at = c * p.count + i;
  if (p.radii[2 * at] <= 0) return false;
  bool used = false;
  for (int d = 0; d < D; ++d) used |= v_colors[at * D + d] != T(0);
  if (!used) return false;
  const View<T> view{p.viewmats + 16 * c};
  const Direction<T> dir = direction(p.means + 3 * i, view.centre());
  using V = Dual3<T>;
  V b[kMaxShBasis];
  sh_basis<T>(degree, V(dir.unit.x, 0), V(dir.unit.y, 1), V(dir.unit.z, 2), b);
  T v_b[kMaxShBasis] = {};
  for (int d = 0; d < D; ++d) {
    const T v = p.colors[at * D + d] > T(0) ? v_colors[at * D + d] : T(0);  // clamped at zero: no gradient
    add(0, d, b[0].v * v);
    for (int k = 1; k < basis; ++k) {
      v_b[k] += shN[(k - 1) * D + d] * v;
      add(k, d, b[k].v * v);
    }
  }
  T v_unit[3] = {T(0), T(0), T(0)};
  for (int k = 1; k < basis; ++k)
    for (int a = 0; a < 3; ++a) v_unit[a] += v_b[k] * b[k].d[a];
  v_mean = normalize_vjp(dir.unit, dir.inverse_length, Vec3<T>{v_unit[0], v_unit[1], v_unit[2]});
  view.centre_vjp({-v_mean.x, -v_mean.y, -v_mean.z}, camera);
  return true;
}

// The same, added to the gradients in memory. False where nothing depends on the camera.
template <class T, int kDegree, int kFixed>
SPLAT_HD bool sh_color_vjp(const ShParams<T>& p, const ShGrads<T>& g, int64_t c, int64_t i, T* camera) {
  const int D = sh_channels<kDegree, kFixed>(p);
  T* v_sh0 = g.v_sh0 + i * D;
  T* v_shN = g.v_shN + i * p.stride;
  Vec3<T> v;
  const bool used = sh_color_vjp<T, kDegree, kFixed>(
      p, p.shN + i * p.stride, g.v_colors, c, i, v, camera,
      [=](int k, int d, T value) { (k == 0 ? v_sh0[d] : v_shN[(k - 1) * D + d]) += value; });
  if (!used) return false;
  g.v_means[3 * i] += v.x, g.v_means[3 * i + 1] += v.y, g.v_means[3 * i + 2] += v.z;
  return true;
}

}  // namespace splat
