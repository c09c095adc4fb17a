// step: the training step of 3D Gaussians.
#include <vector>

#include "checks.h"
#include "device.h"
#include "kernels.h"
#include "project.h"
#include "splat/sh.h"

namespace splat {
namespace {

using Tensors = std::vector<Tensor>;

// Pointers to what a Gaussian stores, or to the moments of it.
void stored(Tensors& values, const char* name, int64_t N, int64_t D, float* (&to)[kStored]) {
  STD_TORCH_CHECK(values.size() == kStored, name, " must hold 6 tensors, got ", values.size());
  const int64_t coefficients = values[kShN].dim() == 3 ? values[kShN].size(1) : -1;
  const std::vector<int64_t> widths = {3, 4, 3, 1, D, coefficients * D};
  for (int i = 0; i < kStored; ++i) {
    check_float32(values[i], name);
    STD_TORCH_CHECK(values[i].numel() == N * widths[i], name, "[", i, "] must have ", N, " x ", widths[i],
                    " values, got ", shape_of(values[i]));
    STD_TORCH_CHECK(values[i].is_contiguous(), name, "[", i, "] must be contiguous: it is changed in place");
    to[i] = out<float>(values[i]);
  }
}

void step(Tensors param, Tensors exp_avg, Tensors exp_avg_sq, Tensor steps, const Tensor& rates_in,
          const Tensor& viewmats_in, const Tensor& Ks_in, int64_t width, int64_t height, double eps2d,
          double near_plane, double far_plane, double radius_clip, int64_t camera_model, bool antialiased,
          int64_t degree, const Tensor& radii_in, const Tensor& colors_in, const Tensor& v_means2d_in,
          const Tensor& v_depths_in, const Tensor& v_conics_in, const Tensor& v_opacities_in,
          const Tensor& v_colors_in, double beta1, double beta2, double epsilon, double opacity_pull,
          double scale_pull, bool visible_only, const OptTensor& skip) {
  const int64_t N = steps.numel(), D = colors_in.dim() == 3 ? colors_in.size(2) : -1;
  check_dtype(steps, "steps", ScalarType::Int, "int32");
  check_shape(rates_in, "rates", {kStored}, "[6]");
  check_shape(viewmats_in, "viewmats", {1, 4, 4}, "[1, 4, 4]");
  check_shape(Ks_in, "Ks", {1, 3, 3}, "[1, 3, 3]");
  check_shape(radii_in, "radii", {1, N, 2}, "[1, N, 2]");
  check_shape(colors_in, "colors", {1, N, D}, "[1, N, D]");
  check_shape(v_means2d_in, "v_means2d", {1, N, 2}, "[1, N, 2]");
  check_shape(v_depths_in, "v_depths", {1, N}, "[1, N]");
  check_shape(v_conics_in, "v_conics", {1, N, 3}, "[1, N, 3]");
  check_shape(v_opacities_in, "v_opacities2d", {1, N}, "[1, N]");
  check_shape(v_colors_in, "v_colors", {1, N, D}, "[1, N, D]");
  StepParams p{};
  stored(param, "param", N, D, p.param);
  stored(exp_avg, "exp_avg", N, D, p.exp_avg);
  stored(exp_avg_sq, "exp_avg_sq", N, D, p.exp_avg_sq);
  const int64_t coefficients = param[kShN].size(1);
  STD_TORCH_CHECK(degree >= 0 && degree <= kMaxShDegree && coefficients + 1 >= (degree + 1) * (degree + 1),
                  "degree must be in 0 .. 4 and not above what shN holds, got ", degree);
  STD_TORCH_CHECK(coefficients < kMaxShBasis, "shN must hold at most 24 coefficients, got ", coefficients);
  const Tensor rates = dense(rates_in), viewmats = dense(viewmats_in), Ks = dense(Ks_in), radii = dense(radii_in);
  const Tensor colors = dense(colors_in), v_means2d = dense(v_means2d_in), v_depths = dense(v_depths_in);
  const Tensor v_conics = dense(v_conics_in), v_opacities = dense(v_opacities_in), v_colors = dense(v_colors_in);

  ProjectParams<float>& project = p.project;
  project.means = p.param[kMeans], project.quats = p.param[kQuats], project.scales = p.param[kLogScales];
  project.opacities = p.param[kOpacityLogits];
  project.viewmats = in<float>(viewmats), project.Ks = in<float>(Ks);
  project.count = N, project.cameras = 1;
  set_view(project, {width, height, eps2d, near_plane, far_plane, radius_clip, camera_model, antialiased, true});
  project.radii = const_cast<int32_t*>(in<int32_t>(radii));  // only read in this direction
  p.splats.v_means2d = in<float>(v_means2d), p.splats.v_depths = in<float>(v_depths);
  p.splats.v_conics = in<float>(v_conics), p.splats.v_opacities2d = in<float>(v_opacities);
  p.sh = {p.param[kMeans], project.viewmats, p.param[kSh0], p.param[kShN], in<int32_t>(radii), N, coefficients * D, 1,
          static_cast<int32_t>(D), static_cast<int32_t>(degree), const_cast<float*>(in<float>(colors))};
  p.v_colors = in<float>(v_colors);
  p.steps = out<int32_t>(steps);
  p.rates = in<float>(rates);
  p.skip = skip ? in<bool>(*skip) : nullptr;
  p.rule = {static_cast<float>(beta1), static_cast<float>(beta2), static_cast<float>(epsilon)};
  p.opacity_pull = static_cast<float>(opacity_pull), p.scale_pull = static_cast<float>(scale_pull);
  p.visible_only = visible_only;
  run_where(
      steps, [&] { cpu::kernels().step(p); }, [&](CudaCall& call) { cuda::step(p, call.stream); });
}

}  // namespace
}  // namespace splat

STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_IMPL(m, step); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_IMPL(m, step); }
