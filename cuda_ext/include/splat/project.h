// One Gaussian through the 3D front end: world -> camera -> splat, and back. The kernels of every backend are loops around
// these functions; the formulae are in ewa.h and camera.h.
#pragma once
#include <stdint.h>

#include "splat/camera.h"
#include "splat/ewa.h"
#include "splat/params.h"

namespace splat {

template <class T>
struct Camera {
  Mat3<T> R;
  Vec3<T> t;
  Intrinsics<T> k;

  SPLAT_HD Camera(const ProjectParams<T>& p, int64_t c) {
    const T* v = p.viewmats + 16 * c;
    const T* K = p.Ks + 9 * c;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) R.m[i][j] = v[4 * i + j];
    t = {v[3], v[7], v[11]};
    k = {K[0], K[4], K[2], K[5], p.width, p.height};
  }
  SPLAT_HD Vec3<T> to_camera(const Vec3<T>& m) const {
    const Vec3<T> r = mul(R, m);
    return {r.x + t.x, r.y + t.y, r.z + t.z};
  }
};

template <class T>
SPLAT_HD T opacity_of(const ProjectParams<T>& p, int64_t i) {
  return p.raw ? T(1) / (T(1) + exponential(-p.opacities[i])) : p.opacities[i];
}
template <class T>
SPLAT_HD T scale_of(const ProjectParams<T>& p, int64_t i, int axis) {
  return p.raw ? exponential(p.scales[3 * i + axis]) : p.scales[3 * i + axis];
}

// The world-space shape of a Gaussian.
template <class T>
struct Shape {
  Mat3<T> R, cov;
  Vec3<T> scale;
  Quat<T> quat;
  bool valid;

  SPLAT_HD Shape(const ProjectParams<T>& p, int64_t i) : R{}, cov{}, scale{}, quat{} {
    if (p.covars != nullptr) {
      for (int k = 0; k < 9; ++k) cov.m[k / 3][k % 3] = p.covars[9 * i + k];
      // Only the symmetric part is meant.
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < a; ++b) cov.m[a][b] = cov.m[b][a] = T(0.5) * (cov.m[a][b] + cov.m[b][a]);
      valid = true;
      return;
    }
    const T* q = p.quats + 4 * i;
    quat = {q[0], q[1], q[2], q[3]};
    scale = {scale_of(p, i, 0), scale_of(p, i, 1), scale_of(p, i, 2)};
    const T length = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    valid = length > T(0) && finite(length);
    if (!valid) return;
    R = rotation(quat);
    cov = covariance(R, scale);
  }
};

// Everything between the world and the splat, as both directions need it.
template <class T>
struct Projected {
  Vec3<T> point;
  Mat3<T> cov;  // camera frame
  Projection<T> at;
  Sym2<T> cov2d;
  Dilated<T> dilated;

  SPLAT_HD Projected(const ProjectParams<T>& p, const Camera<T>& camera, const Shape<T>& shape, const Vec3<T>& point)
      : point(point),
        cov(mul_transposed(mul(camera.R, shape.cov), camera.R)),
        at(project_point(CameraModel(p.camera_model), camera.k, point)),
        cov2d(project_covariance(at.J, cov)),
        dilated(dilate(cov2d, p.eps2d)) {}
};

template <class T>
SPLAT_HD Vec3<T> mean_of(const ProjectParams<T>& p, int64_t i) {
  return {p.means[3 * i], p.means[3 * i + 1], p.means[3 * i + 2]};
}

// Projects one Gaussian and writes its splat at index `to`; false where it is culled (nothing is written).
template <class T>
SPLAT_HD bool project_gaussian(const ProjectParams<T>& p, const Camera<T>& camera, int64_t i, int64_t to) {
  const Vec3<T> point = camera.to_camera(mean_of(p, i));
  // First what the mean alone tells: a warp whose Gaussians all lie outside reads nothing else.
  if (!(point.z >= p.near_plane && point.z <= p.far_plane && finite(point.x) && finite(point.y))) return false;
  const T opacity = opacity_of(p, i);
  if (!(opacity >= T(kAlphaMin) && finite(opacity))) return false;
  const Shape<T> shape(p, i);
  if (!shape.valid) return false;
  const Projected<T> s(p, camera, shape, point);
  if (!s.dilated.valid || !finite(s.dilated.cov.a) || !finite(s.dilated.cov.c) || !finite(s.at.x) || !finite(s.at.y))
    return false;
  const T drawn = p.antialiased ? opacity * s.dilated.compensation : opacity;
  if (!(drawn >= T(kAlphaMin))) return false;
  const T reach = root(T(2) * T(log(drawn / T(kAlphaMin))));
  const T extent = reach < T(kExtentSigmas) ? reach : T(kExtentSigmas);
  const T limit = T(1e9);  // so that the conversion to int32 is defined
  const T wide = extent * root(s.dilated.cov.a), high = extent * root(s.dilated.cov.c);
  const T rx = T(ceil(wide < limit ? wide : limit)), ry = T(ceil(high < limit ? high : limit));
  if (rx <= p.radius_clip && ry <= p.radius_clip) return false;
  if (s.at.x + rx <= T(0) || s.at.x - rx >= T(p.width) || s.at.y + ry <= T(0) || s.at.y - ry >= T(p.height)) return false;
  p.radii[2 * to] = int32_t(rx);
  p.radii[2 * to + 1] = int32_t(ry);
  p.means2d[2 * to] = s.at.x;
  p.means2d[2 * to + 1] = s.at.y;
  p.depths[to] = point.z;
  p.conics[3 * to] = s.dilated.conic.a;
  p.conics[3 * to + 1] = s.dilated.conic.b;
  p.conics[3 * to + 2] = s.dilated.conic.c;
  p.opacities2d[to] = drawn;
  return true;
}

// A culled splat: radius 0, zeros elsewhere.
template <class T>
SPLAT_HD void write_culled(const ProjectParams<T>& p, int64_t to) {
  p.radii[2 * to] = p.radii[2 * to + 1] = 0;
  p.means2d[2 * to] = p.means2d[2 * to + 1] = p.depths[to] = p.opacities2d[to] = T(0);
  p.conics[3 * to] = p.conics[3 * to + 1] = p.conics[3 * to + 2] = T(0);
}

// What one Gaussian collects over the cameras.
template <class T>
struct Collected {
  Vec3<T> mean{};
  Mat3<T> cov{};
  T opacity = T(0);
};

// dL/d(camera) of one Gaussian.
template <class T>
struct CameraGradient {
  T v[kCameraSums];
};

// VJP of project_gaussian for one camera: adds to `v`, sets `sums`.
template <class T>
SPLAT_HD void project_vjp(const ProjectParams<T>& p, const ProjectGrads<T>& g, const Camera<T>& camera, const Shape<T>& shape,
               int64_t i, int64_t from, Collected<T>& v, CameraGradient<T>& sums) {
  const Vec3<T> mean = mean_of(p, i), point = camera.to_camera(mean);
  const Projected<T> s(p, camera, shape, point);
  const T v_drawn = g.v_opacities2d[from];
  v.opacity += p.antialiased ? v_drawn * s.dilated.compensation : v_drawn;
  const Sym2<T> v_conic = {g.v_conics[3 * from], g.v_conics[3 * from + 1], g.v_conics[3 * from + 2]};
  const Sym2<T> v_cov2d =
      dilate_vjp(s.cov2d, s.dilated, v_conic, p.antialiased ? v_drawn * opacity_of(p, i) : T(0));
  Mat23<T> v_J;
  Mat3<T> v_cov;
  project_covariance_vjp(s.at.J, s.cov, v_cov2d, v_J, v_cov);
  Vec3<T> v_point = {T(0), T(0), g.v_depths[from]};
  IntrinsicsGradient<T> v_k{};
  project_point_vjp(CameraModel(p.camera_model), camera.k, point, g.v_means2d[2 * from], g.v_means2d[2 * from + 1], v_J,
                    v_point, v_k);
  // point = R mean + t and cov = R W R^T.
  const Mat3<T> back = transpose(camera.R);
  const Vec3<T> v_mean = mul(back, v_point);
  v.mean = {v.mean.x + v_mean.x, v.mean.y + v_mean.y, v.mean.z + v_mean.z};
  const Mat3<T> v_W = mul(mul(back, v_cov), camera.R), RW = mul(camera.R, shape.cov), v_R = mul(v_cov, RW);
  const T vp[3] = {v_point.x, v_point.y, v_point.z}, m[3] = {mean.x, mean.y, mean.z};
  for (int r = 0; r < 3; ++r) {
    for (int k = 0; k < 3; ++k) {
      v.cov.m[r][k] += v_W.m[r][k];
      sums.v[4 * r + k] = T(2) * v_R.m[r][k] + vp[r] * m[k];
    }
    sums.v[4 * r + 3] = vp[r];
  }
  sums.v[12] = v_k.fx;
  sums.v[13] = v_k.fy;
  sums.v[14] = v_k.cx;
  sums.v[15] = v_k.cy;
}

// What the cameras' gradients add up to, for one Gaussian given by quaternion and scales.
template <class T>
struct GaussianGradient {
  T mean[3], quat[4], scale[3], opacity;
};
template <class T>
SPLAT_HD GaussianGradient<T> gaussian_gradient(const ProjectParams<T>& p, const Shape<T>& shape, int64_t i,
                                               const Collected<T>& v) {
  Mat3<T> v_R;
  Vec3<T> v_scale;
  covariance_vjp(shape.R, shape.scale, v.cov, v_R, v_scale);
  const Quat<T> v_quat = shape.valid ? rotation_vjp(shape.quat, v_R) : Quat<T>{};
  const T opacity = opacity_of(p, i);
  const Vec3<T> inner = p.raw ? shape.scale : Vec3<T>{T(1), T(1), T(1)};  // d exp(x) = exp(x) dx
  return {{v.mean.x, v.mean.y, v.mean.z},
          {v_quat.w, v_quat.x, v_quat.y, v_quat.z},
          {v_scale.x * inner.x, v_scale.y * inner.y, v_scale.z * inner.z},
          p.raw ? v.opacity * opacity * (T(1) - opacity) : v.opacity};
}

template <class T>
SPLAT_HD void write_gaussian(const ProjectParams<T>& p, const ProjectGrads<T>& g, const Shape<T>& shape, int64_t i,
                             const Collected<T>& v) {
  const GaussianGradient<T> r = gaussian_gradient(p, shape, i, v);
  for (int k = 0; k < 3; ++k) g.v_means[3 * i + k] = r.mean[k];
  g.v_opacities[i] = r.opacity;
  if (p.covars != nullptr) {
    for (int k = 0; k < 9; ++k) g.v_covars[9 * i + k] = T(0.5) * (v.cov.m[k / 3][k % 3] + v.cov.m[k % 3][k / 3]);
    return;
  }
  for (int k = 0; k < 4; ++k) g.v_quats[4 * i + k] = r.quat[k];
  for (int k = 0; k < 3; ++k) g.v_scales[3 * i + k] = r.scale[k];
}

template <class T>
SPLAT_HD void clear_gaussian(const ProjectGrads<T>& g, int64_t i) {
  for (int k = 0; k < 3; ++k) g.v_means[3 * i + k] = T(0);
  g.v_opacities[i] = T(0);
  if (g.v_covars != nullptr)
    for (int k = 0; k < 9; ++k) g.v_covars[9 * i + k] = T(0);
  if (g.v_quats == nullptr) return;
  for (int k = 0; k < 4; ++k) g.v_quats[4 * i + k] = T(0);
  for (int k = 0; k < 3; ++k) g.v_scales[3 * i + k] = T(0);
}

}  // namespace splat
