// project and sh: the 3D front end; on the CPU in float32 and (for gradient checks) float64.
#include "checks.h"
#include "device.h"
#include "kernels.h"
#include "project.h"

namespace splat {
namespace {

OptTensor dense_or_none(const OptTensor& t) { return t ? OptTensor(dense(*t)) : std::nullopt; }
template <class T>
const T* in_or_null(const OptTensor& t) { return t ? in<T>(*t) : nullptr; }
bool is_double(const Tensor& t) {
  const bool wide = t.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(wide || t.scalar_type() == ScalarType::Float, "means must be float32 or float64");
  STD_TORCH_CHECK(!wide || !t.is_cuda(), "means must be float32 on a GPU");
  return wide;
}
void same_dtype(const Tensor& t, const char* name, const Tensor& means) {
  STD_TORCH_CHECK(t.scalar_type() == means.scalar_type(), name, " must have the dtype of means");
}

struct Scene {
  Tensor means;
  OptTensor quats, scales, covars;
  Tensor opacities, viewmats, Ks;
  int64_t N, C;
};

Scene gather_scene(const Tensor& means, const OptTensor& quats, const OptTensor& scales, const OptTensor& covars,
                   const Tensor& opacities, const Tensor& viewmats, const Tensor& Ks) {
  check_shape(means, "means", {-1, 3}, "[N, 3]");
  const int64_t N = means.size(0);
  STD_TORCH_CHECK(covars ? !(quats || scales) : (quats && scales), "give either quats and scales, or covars");
  if (quats) check_shape(*quats, "quats", {N, 4}, "[N, 4]"), same_dtype(*quats, "quats", means);
  if (scales) check_shape(*scales, "scales", {N, 3}, "[N, 3]"), same_dtype(*scales, "scales", means);
  if (covars) check_shape(*covars, "covars", {N, 3, 3}, "[N, 3, 3]"), same_dtype(*covars, "covars", means);
  check_shape(opacities, "opacities", {N}, "[N]");
  check_shape(viewmats, "viewmats", {-1, 4, 4}, "[C, 4, 4]");
  check_shape(Ks, "Ks", {viewmats.size(0), 3, 3}, "[C, 3, 3]");
  check_grid(viewmats, "cameras", viewmats.size(0));
  same_dtype(opacities, "opacities", means);
  same_dtype(viewmats, "viewmats", means);
  same_dtype(Ks, "Ks", means);
  return {dense(means),     dense_or_none(quats), dense_or_none(scales), dense_or_none(covars),
          dense(opacities), dense(viewmats),      dense(Ks),             N,
          viewmats.size(0)};
}

template <class T>
ProjectParams<T> project_params(const Scene& s, const ProjectView& v) {
  ProjectParams<T> p{};
  p.means = in<T>(s.means);
  p.quats = in_or_null<T>(s.quats);
  p.scales = in_or_null<T>(s.scales);
  p.covars = in_or_null<T>(s.covars);
  p.opacities = in<T>(s.opacities);
  p.viewmats = in<T>(s.viewmats);
  p.Ks = in<T>(s.Ks);
  p.count = s.N;
  p.cameras = static_cast<int32_t>(s.C);
  set_view(p, v);
  return p;
}

template <class T, class Kernel>
void run_project(const Scene& s, const ProjectView& v, Tensor& radii, Tensor& means2d, Tensor& depths, Tensor& conics,
                 Tensor& opacities2d, Kernel&& kernel) {
  ProjectParams<T> p = project_params<T>(s, v);
  p.radii = out<int32_t>(radii);
  p.means2d = out<T>(means2d);
  p.depths = out<T>(depths);
  p.conics = out<T>(conics);
  p.opacities2d = out<T>(opacities2d);
  kernel(p);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> project(
    const Tensor& means, const OptTensor& quats, const OptTensor& scales, const OptTensor& covars,
    const Tensor& opacities, const Tensor& viewmats, const Tensor& Ks, int64_t width, int64_t height, double eps2d,
    double near_plane, double far_plane, double radius_clip, int64_t camera_model, bool antialiased, bool raw) {
  const Scene s = gather_scene(means, quats, scales, covars, opacities, viewmats, Ks);
  const ProjectView v{width, height, eps2d, near_plane, far_plane, radius_clip, camera_model, antialiased, raw};
  Tensor radii = torch::stable::new_empty(s.means, {s.C, s.N, 2}, ScalarType::Int);
  Tensor means2d = torch::stable::new_empty(s.means, {s.C, s.N, 2});
  Tensor depths = torch::stable::new_empty(s.means, {s.C, s.N});
  Tensor conics = torch::stable::new_empty(s.means, {s.C, s.N, 3});
  Tensor opacities2d = torch::stable::new_empty(s.means, {s.C, s.N});
  if (is_double(means))
    run_project<double>(s, v, radii, means2d, depths, conics, opacities2d, cpu::kernels().project_double);
  else
    run_project<float>(s, v, radii, means2d, depths, conics, opacities2d, [&](const ProjectParams<float>& p) {
      run_where(
          s.means, [&] { cpu::kernels().project(p); }, [&](CudaCall& call) { cuda::project(p, call.stream); });
    });
  return {means2d, depths, conics, opacities2d, radii};
}

struct SplatGradients {
  Tensor radii, v_means2d, v_depths, v_conics, v_opacities2d;
};

template <class T, class Kernel>
void run_project_backward(const Scene& s, const ProjectView& v, const SplatGradients& g, std::array<Tensor, 7>& results,
                          Kernel&& kernel) {
  ProjectParams<T> p = project_params<T>(s, v);
  p.radii = const_cast<int32_t*>(in<int32_t>(g.radii));  // only read in this direction
  const bool shaped = s.quats.has_value();
  kernel(p, ProjectGrads<T>{in<T>(g.v_means2d), in<T>(g.v_depths), in<T>(g.v_conics), in<T>(g.v_opacities2d),
                            out<T>(results[0]), shaped ? out<T>(results[1]) : nullptr,
                            shaped ? out<T>(results[2]) : nullptr, shaped ? nullptr : out<T>(results[3]),
                            out<T>(results[4]), out<T>(results[5]), out<T>(results[6])});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> project_backward(
    const Tensor& means, const OptTensor& quats, const OptTensor& scales, const OptTensor& covars,
    const Tensor& opacities, const Tensor& viewmats, const Tensor& Ks, int64_t width, int64_t height, double eps2d,
    double near_plane, double far_plane, double radius_clip, int64_t camera_model, bool antialiased, bool raw,
    const Tensor& radii, const Tensor& v_means2d, const Tensor& v_depths, const Tensor& v_conics,
    const Tensor& v_opacities2d) {
  const Scene s = gather_scene(means, quats, scales, covars, opacities, viewmats, Ks);
  const ProjectView v{width, height, eps2d, near_plane, far_plane, radius_clip, camera_model, antialiased, raw};
  const SplatGradients g{dense(radii), dense(v_means2d), dense(v_depths), dense(v_conics), dense(v_opacities2d)};
  const int64_t with_shape = quats ? s.N : 0, with_covars = covars ? s.N : 0;
  const auto empty = [&](std::initializer_list<int64_t> shape) { return torch::stable::new_empty(s.means, shape); };
  std::array<Tensor, 7> r{empty({s.N, 3}),  empty({with_shape, 4}), empty({with_shape, 3}), empty({with_covars, 3, 3}),
                          empty({s.N}), empty({s.C, 4, 4}),     empty({s.C, 3, 3})};
  if (is_double(means))
    run_project_backward<double>(s, v, g, r, cpu::kernels().project_backward_double);
  else
    run_project_backward<float>(s, v, g, r, [&](const ProjectParams<float>& p, const ProjectGrads<float>& grads) {
      run_where(
          s.means, [&] { cpu::kernels().project_backward(p, grads); },
          [&](CudaCall& call) {
            float* partial = call.scratch<float>(cuda::sum_blocks(s.N) * s.C * kCameraSums);
            cuda::project_backward(p, grads, partial, call.stream);
          });
    });
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6]};
}

struct ShInputs {
  Tensor means, viewmats, sh0, shN, radii;
  int64_t N, C, D, degree;
};
ShInputs gather_sh(const Tensor& means, const Tensor& viewmats, const Tensor& sh0, const Tensor& shN,
                   const Tensor& radii, int64_t degree) {
  check_shape(means, "means", {-1, 3}, "[N, 3]");
  const int64_t N = means.size(0), C = viewmats.size(0), D = sh0.dim() == 3 ? sh0.size(2) : -1;
  check_grid(viewmats, "cameras", C);
  check_shape(viewmats, "viewmats", {-1, 4, 4}, "[C, 4, 4]");
  check_shape(sh0, "sh0", {N, 1, -1}, "[N, 1, D]");
  check_shape(shN, "shN", {N, -1, D}, "[N, K - 1, D]");
  check_shape(radii, "radii", {C, N, 2}, "[C, N, 2]");
  STD_TORCH_CHECK(degree >= 0 && degree <= kMaxShDegree, "degree must be in 0 .. 4, got ", degree);
  STD_TORCH_CHECK(shN.size(1) + 1 >= (degree + 1) * (degree + 1), "degree ", degree, " needs ",
                  (degree + 1) * (degree + 1) - 1, " coefficients in shN, got ", shN.size(1));
  same_dtype(viewmats, "viewmats", means);
  same_dtype(sh0, "sh0", means);
  same_dtype(shN, "shN", means);
  return {dense(means), dense(viewmats), dense(sh0), dense(shN), dense(radii), N, C, D, degree};
}
template <class T>
ShParams<T> sh_params(const ShInputs& s, T* colors) {
  return {in<T>(s.means),
          in<T>(s.viewmats),
          in<T>(s.sh0),
          in<T>(s.shN),
          in<int32_t>(s.radii),
          s.N,
          s.shN.size(1) * s.D,
          static_cast<int32_t>(s.C),
          static_cast<int32_t>(s.D),
          static_cast<int32_t>(s.degree),
          colors};
}

Tensor sh(const Tensor& means, const Tensor& viewmats, const Tensor& sh0, const Tensor& shN, const Tensor& radii,
          int64_t degree) {
  const ShInputs s = gather_sh(means, viewmats, sh0, shN, radii, degree);
  Tensor colors = torch::stable::new_empty(s.means, {s.C, s.N, s.D});
  if (is_double(means))
    cpu::kernels().sh_double(sh_params<double>(s, out<double>(colors)));
  else
    run_where(
        s.means, [&] { cpu::kernels().sh(sh_params<float>(s, out<float>(colors))); },
        [&](CudaCall& call) { cuda::sh(sh_params<float>(s, out<float>(colors)), call.stream); });
  return colors;
}

template <class T, class Kernel>
void run_sh_backward(const ShInputs& s, const Tensor& colors, const Tensor& v, std::array<Tensor, 4>& r,
                     Kernel&& kernel) {
  kernel(sh_params<T>(s, const_cast<T*>(in<T>(colors))),
         ShGrads<T>{in<T>(v), out<T>(r[0]), out<T>(r[1]), out<T>(r[2]), out<T>(r[3])});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sh_backward(const Tensor& means, const Tensor& viewmats, const Tensor& sh0,
                                                       const Tensor& shN, const Tensor& radii, int64_t degree,
                                                       const Tensor& colors_in, const Tensor& v_colors_in) {
  const ShInputs s = gather_sh(means, viewmats, sh0, shN, radii, degree);
  const Tensor colors = dense(colors_in), v_colors = dense(v_colors_in);
  const auto empty = [&](std::initializer_list<int64_t> shape) { return torch::stable::new_empty(s.means, shape); };
  std::array<Tensor, 4> r{empty({s.N, 3}), empty({s.C, 4, 4}), empty({s.N, 1, s.D}), empty({s.N, s.shN.size(1), s.D})};
  if (is_double(means))
    run_sh_backward<double>(s, colors, v_colors, r, cpu::kernels().sh_backward_double);
  else
    run_sh_backward<float>(s, colors, v_colors, r, [&](const ShParams<float>& p, const ShGrads<float>& grads) {
      run_where(
          s.means, [&] { cpu::kernels().sh_backward(p, grads); },
          [&](CudaCall& call) {
            float* partial = call.scratch<float>(cuda::sum_blocks(s.N) * s.C * kCameraSums);
            cuda::sh_backward(p, grads, partial, call.stream);
          });
    });
  return {r[0], r[1], r[2], r[3]};
}

}  // namespace
}  // namespace splat

#define SPLAT_PROJECT_OPS(m)        \
  SPLAT_IMPL(m, project);           \
  SPLAT_IMPL(m, project_backward);  \
  SPLAT_IMPL(m, sh);                \
  SPLAT_IMPL(m, sh_backward)
STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_PROJECT_OPS(m); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_PROJECT_OPS(m); }
