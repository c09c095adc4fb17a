// Colours from spherical harmonics on the CPU: max(sum_k b_k(direction) c_k + 0.5, 0).
#include "camera_sums.h"
#include "kernels.h"
#include "splat/sh.h"

SPLAT_KERNEL(sh, const ShParams<float>&)
SPLAT_KERNEL(sh_backward, const ShParams<float>&, const ShGrads<float>&)
SPLAT_KERNEL(sh_double, const ShParams<double>&)
SPLAT_KERNEL(sh_backward_double, const ShParams<double>&, const ShGrads<double>&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <class T>
struct View {
  const T* v;  // view matrix
  // Camera centre: -R^T t.
  SPLAT_HD Vec3<T> centre() const {
    return {-(v[0] * v[3] + v[4] * v[7] + v[8] * v[11]), -(v[1] * v[3] + v[5] * v[7] + v[9] * v[11]),
            -(v[2] * v[3] + v[6] * v[7] + v[10] * v[11])};
  }
  SPLAT_HD void centre_vjp(const Vec3<T>& g, double* sums) const {
    const T gs[3] = {g.x, g.y, g.z};
    for (int r = 0; r < 3; ++r) {
      T v_t = T(0);
      for (int k = 0; k < 3; ++k) {
        sums[4 * r + k] -= double(gs[k] * v[4 * r + 3]);
        v_t -= gs[k] * v[4 * r + k];
      }
      sums[4 * r + 3] += double(v_t);
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

// kDegree, kFixed: the degree and the number of channels where they are constants of the kernel, else -1 and 0.
template <class T, int kDegree, int kFixed>
void forward(const ShParams<T>& p) {
  const int degree = kDegree >= 0 ? kDegree : p.degree, basis = (degree + 1) * (degree + 1);
  const int D = kFixed ? kFixed : p.channels;
  for (int64_t c = 0; c < p.cameras; ++c) {
    const Vec3<T> centre = View<T>{p.viewmats + 16 * c}.centre();
    parallel_for(p.count, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* color = p.colors + (c * p.count + i) * D;
        for (int d = 0; d < D; ++d) color[d] = T(0);
        if (p.radii[2 * (c * p.count + i)] <= 0) continue;
        const Vec3<T> u = direction(p.means + 3 * i, centre).unit;
        T b[kMaxShBasis];
        sh_basis<T>(degree, u.x, u.y, u.z, b);
        for (int d = 0; d < D; ++d) {
          T sum = b[0] * p.sh0[i * D + d] + T(0.5);
          for (int k = 1; k < basis; ++k) sum += b[k] * p.shN[i * p.stride + (k - 1) * D + d];
          color[d] = sum > T(0) ? sum : T(0);
        }
      }
    });
  }
}

template <class T, int kDegree, int kFixed>
void backward(const ShParams<T>& p, const ShGrads<T>& g) {
  const int degree = kDegree >= 0 ? kDegree : p.degree, basis = (degree + 1) * (degree + 1);
  const int D = kFixed ? kFixed : p.channels;
  CameraSums sums(p.count, p.cameras);
  sums.for_pieces(p.count, [&](int64_t begin, int64_t end, double* mine) {
    for (int64_t i = begin; i < end; ++i) {
      T* v_sh0 = g.v_sh0 + i * D;
      T* v_shN = g.v_shN + i * p.stride;
      T* v_mean = g.v_means + 3 * i;
      for (int d = 0; d < D; ++d) v_sh0[d] = T(0);
      for (int64_t k = 0; k < p.stride; ++k) v_shN[k] = T(0);
      v_mean[0] = v_mean[1] = v_mean[2] = T(0);
      for (int64_t c = 0; c < p.cameras; ++c) {
        const int64_t at = c * p.count + i;
        if (p.radii[2 * at] <= 0) continue;
        const View<T> view{p.viewmats + 16 * c};
        const Direction<T> dir = direction(p.means + 3 * i, view.centre());
        using V = Dual3<T>;
        V b[kMaxShBasis];
        sh_basis<T>(degree, V(dir.unit.x, 0), V(dir.unit.y, 1), V(dir.unit.z, 2), b);
        T v_b[kMaxShBasis] = {};
        for (int d = 0; d < D; ++d) {
          const T v = p.colors[at * D + d] > T(0) ? g.v_colors[at * D + d] : T(0);  // clamped at zero: no gradient
          v_sh0[d] += b[0].v * v;
          for (int k = 1; k < basis; ++k) {
            v_shN[(k - 1) * D + d] += b[k].v * v;
            v_b[k] += p.shN[i * p.stride + (k - 1) * D + d] * v;
          }
        }
        if (degree == 0) continue;
        T v_unit[3] = {T(0), T(0), T(0)};
        for (int k = 1; k < basis; ++k)
          for (int a = 0; a < 3; ++a) v_unit[a] += v_b[k] * b[k].d[a];
        const Vec3<T> v = normalize_vjp(dir.unit, dir.inverse_length, Vec3<T>{v_unit[0], v_unit[1], v_unit[2]});
        v_mean[0] += v.x, v_mean[1] += v.y, v_mean[2] += v.z;
        view.centre_vjp({-v.x, -v.y, -v.z}, mine + c * kCameraSums);
      }
    }
  });
  sums.write_viewmats(p.cameras, g.v_viewmats);
}

// RGB at degree 3, which most scenes have, unrolled: a quarter faster.
template <class T>
void forward(const ShParams<T>& p) {
  if (p.channels == 3 && p.degree == 3) return forward<T, 3, 3>(p);
  if (p.channels == 3) return forward<T, -1, 3>(p);
  forward<T, -1, 0>(p);
}
template <class T>
void backward(const ShParams<T>& p, const ShGrads<T>& g) {
  if (p.channels == 3 && p.degree == 3) return backward<T, 3, 3>(p, g);
  if (p.channels == 3) return backward<T, -1, 3>(p, g);
  backward<T, -1, 0>(p, g);
}

}  // namespace

void sh(const ShParams<float>& p) { forward(p); }
void sh_double(const ShParams<double>& p) { forward(p); }
void sh_backward(const ShParams<float>& p, const ShGrads<float>& g) { backward(p, g); }
void sh_backward_double(const ShParams<double>& p, const ShGrads<double>& g) { backward(p, g); }

}  // namespace splat::cpu::SPLAT_ISA
