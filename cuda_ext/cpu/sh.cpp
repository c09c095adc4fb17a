// Colours from spherical harmonics on the CPU: loops over Gaussians and cameras around sh_colors.h.
#include "splat/sh_colors.h"

#include "camera_sums.h"
#include "kernels.h"

SPLAT_KERNEL(sh, const ShParams<float>&)
SPLAT_KERNEL(sh_backward, const ShParams<float>&, const ShGrads<float>&)
SPLAT_KERNEL(sh_double, const ShParams<double>&)
SPLAT_KERNEL(sh_backward_double, const ShParams<double>&, const ShGrads<double>&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <class T, int kDegree, int kFixed>
void forward(const ShParams<T>& p) {
  for (int64_t c = 0; c < p.cameras; ++c) {
    const Vec3<T> centre = View<T>{p.viewmats + 16 * c}.centre();
    parallel_for(p.count, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sh_color<T, kDegree, kFixed>(p, centre, c, i);
    });
  }
}

template <class T, int kDegree, int kFixed>
void backward(const ShParams<T>& p, const ShGrads<T>& g) {
  CameraSums sums(p.count, p.cameras);
  sums.for_pieces(p.count, [&](int64_t begin, int64_t end, double* mine) {
    for (int64_t i = begin; i < end; ++i) {
      clear_sh<T, kDegree, kFixed>(p, g, i);
      for (int64_t c = 0; c < p.cameras; ++c) {
        T camera[12];
        if (sh_color_vjp<T, kDegree, kFixed>(p, g, c, i, camera))
          for (int k = 0; k < 12; ++k) mine[c * kCameraSums + k] += double(camera[k]);
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
