// 3D front end on the CPU: loops over Gaussians and cameras around project.h.
#include "splat/project.h"

#include "camera_sums.h"
#include "kernels.h"

SPLAT_KERNEL(project, const ProjectParams<float>&)
SPLAT_KERNEL(project_backward, const ProjectParams<float>&, const ProjectGrads<float>&)
SPLAT_KERNEL(project_double, const ProjectParams<double>&)
SPLAT_KERNEL(project_backward_double, const ProjectParams<double>&, const ProjectGrads<double>&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <class T>
void forward(const ProjectParams<T>& p) {
  for (int64_t c = 0; c < p.cameras; ++c) {
    const Camera<T> camera(p, c);
    parallel_for(p.count, 1024, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        if (!project_gaussian(p, camera, i, c * p.count + i)) write_culled(p, c * p.count + i);
    });
  }
}

template <class T>
void backward(const ProjectParams<T>& p, const ProjectGrads<T>& g) {
  CameraSums sums(p.count, p.cameras);
  sums.for_pieces(p.count, [&](int64_t b, int64_t e, double* mine) {
    for (int64_t i = b; i < e; ++i) {
      bool seen = false;
      for (int64_t c = 0; c < p.cameras; ++c) seen |= p.radii[2 * (c * p.count + i)] > 0;
      if (!seen) {
        clear_gaussian(g, i);
        continue;
      }
      const Shape<T> shape(p, i);
      Collected<T> v;
      for (int64_t c = 0; c < p.cameras; ++c) {
        const int64_t from = c * p.count + i;
        if (p.radii[2 * from] <= 0) continue;
        CameraGradient<T> camera;
        project_vjp(p, g, Camera<T>(p, c), shape, i, from, v, camera);
        for (int k = 0; k < kCameraSums; ++k) mine[c * kCameraSums + k] += double(camera.v[k]);
      }
      write_gaussian(p, g, shape, i, v);
    }
  });
  sums.write_viewmats(p.cameras, g.v_viewmats);
  for (int64_t c = 0; c < p.cameras; ++c) {
    T* v_K = g.v_Ks + 9 * c;
    for (int i = 0; i < 9; ++i) v_K[i] = T(0);
    v_K[0] = T(sums.total(c, 12));
    v_K[4] = T(sums.total(c, 13));
    v_K[2] = T(sums.total(c, 14));
    v_K[5] = T(sums.total(c, 15));
  }
}

}  // namespace

void project(const ProjectParams<float>& p) { forward(p); }
void project_double(const ProjectParams<double>& p) { forward(p); }
void project_backward(const ProjectParams<float>& p, const ProjectGrads<float>& g) { backward(p, g); }
void project_backward_double(const ProjectParams<double>& p, const ProjectGrads<double>& g) { backward(p, g); }

}  // namespace splat::cpu::SPLAT_ISA
