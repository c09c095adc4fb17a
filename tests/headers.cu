// Compiles every shared formula as device code. No kernel of the library yet: it keeps the headers usable from nvcc.
#include "splat/blend.h"
#include "splat/camera.h"
#include "splat/ewa.h"
#include "splat/image.h"
#include "splat/sh.h"

template <class T>
__global__ void formulae(const T* in, T* out, int model) {
  using namespace splat;
  const Quat<T> q = {in[0], in[1], in[2], in[3]};
  const Vec3<T> s = {in[4], in[5], in[6]}, p = {in[7], in[8], in[9]};
  const Mat3<T> R = rotation(q), cov = covariance(R, s);
  const Intrinsics<T> k = {in[10], in[11], in[12], in[13], 640, 480};
  const Projection<T> at = project_point(CameraModel(model), k, p);
  const Sym2<T> cov2d = project_covariance(at.J, cov);
  const Dilated<T> d = dilate(cov2d, T(kDilation));
  const Sym2<T> v = dilate_vjp(cov2d, d, d.conic, d.compensation);
  Mat23<T> v_J;
  Mat3<T> v_S, v_R;
  Vec3<T> v_s, v_p = {};
  IntrinsicsGradient<T> v_k = {};
  project_covariance_vjp(at.J, cov, v, v_J, v_S);
  project_point_vjp(CameraModel(model), k, p, at.x, at.y, v_J, v_p, v_k);
  covariance_vjp(R, s, v_S, v_R, v_s);
  const Quat<T> v_q = rotation_vjp(q, v_R);
  Dual3<T> b[kMaxShBasis];
  sh_basis<T>(4, Dual3<T>(p.x, 0), Dual3<T>(p.y, 1), Dual3<T>(p.z, 2), b);
  const Precisions<T> axes = axes_precisions(in[0], in[1], in[3]);
  const Conic<T> conic = rotated_conic(axes.p, axes.q, in[2]);
  const AxesGradient<T> v_axes = axes_to_conic_vjp(in[0], in[1], in[2], in[3], conic, axes.compensation);
  out[0] = v_q.w + v_p.x + v_k.fx + v_s.x + b[24].d[2] + v_axes.angle;
}

template __global__ void formulae<float>(const float*, float*, int);
template __global__ void formulae<double>(const double*, double*, int);

__global__ void blending(const float* in, float* out) {
  using namespace splat;
  const Splat2D s = make_splat(in[0], in[1], in[2], in[3], in[4], in[5], -8.0f);
  const LocalSplat local = localize(s, 16.0f, 32.0f);
  const float e = log2_alpha(local, 0.5f, 1.5f), raw = keep(e >= -8.0f, exp2_fast(e));
  float T = 1.0f, behind = in[6], weight = alpha_step(raw, T);
  const float g = alpha_step_vjp(raw, in[7], T, behind, weight);
  const float u = splat_u(local, 0.5f, 1.5f), v = splat_v(local, 1.5f);
  const SplatGradient r = splat_vjp(s, {g, g * u, g * v, g * u * u, g * u * v, g * v * v}, in[5]);
  const PixelFinish end = finish_pixel<Blend::kTopK>(weight);
  out[0] = r.a + r.x + order_free_vjp(weight, in[7] + behind) + finish_vjp<Blend::kTopK>(end, in[8], in[9], in[10]);
}
