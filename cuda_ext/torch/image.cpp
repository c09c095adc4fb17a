// The ops of image fitting that are not rendering: the 2D front end and the optimiser's step.
#include "checks.h"
#include "device.h"
#include "kernels.h"

namespace splat {
namespace {

std::tuple<Tensor, Tensor, Tensor> project_image(const Tensor& means_in, const Tensor& log_scales_in,
                                                 const Tensor& angles_in, const Tensor& opacities_in, int64_t width,
                                                 int64_t height, double cutoff, double dilation) {
  check_shape(means_in, "means", {-1, 2}, "[N, 2]");
  const int64_t N = means_in.size(0);
  check_shape(log_scales_in, "log_scales", {N, 2}, "[N, 2]");
  check_shape(angles_in, "angles", {N}, "[N]");
  check_shape(opacities_in, "opacities", {N}, "[N]");
  for (const auto& [t, name] : {std::pair{&means_in, "means"}, std::pair{&log_scales_in, "log_scales"},
                                std::pair{&angles_in, "angles"}, std::pair{&opacities_in, "opacities"}})
    check_float32(*t, name);
  const Tensor means = dense(means_in), log_scales = dense(log_scales_in), angles = dense(angles_in);
  const Tensor opacities = dense(opacities_in);
  Tensor radii = torch::stable::new_empty(means, {1, N, 2}, ScalarType::Int);
  Tensor conics = torch::stable::new_empty(means, {1, N, 3});
  Tensor opacities2d = torch::stable::new_empty(means, {1, N});
  const ProjectImageParams p{in<float>(means),
                             in<float>(log_scales),
                             in<float>(angles),
                             in<float>(opacities),
                             N,
                             {static_cast<int32_t>(width), static_cast<int32_t>(height)},
                             static_cast<float>(cutoff),
                             static_cast<float>(dilation),
                             out<int32_t>(radii),
                             out<float>(conics),
                             out<float>(opacities2d)};
  run_where(
      means, [&] { cpu::kernels().project_image(p); }, [&](CudaCall& call) { cuda::project_image(p, call.stream); });
  return {conics, opacities2d, radii};
}

std::tuple<Tensor, Tensor, Tensor> project_image_backward(const Tensor& log_scales_in, const Tensor& angles_in,
                                                          const Tensor& opacities_in, double dilation,
                                                          const Tensor& radii_in, const Tensor& v_conics_in,
                                                          const Tensor& v_opacities2d_in) {
  const int64_t N = log_scales_in.size(0);
  check_shape(v_conics_in, "v_conics", {1, N, 3}, "[1, N, 3]");
  check_shape(v_opacities2d_in, "v_opacities2d", {1, N}, "[1, N]");
  const Tensor log_scales = dense(log_scales_in), angles = dense(angles_in), opacities = dense(opacities_in);
  const Tensor radii = dense(radii_in), v_conics = dense(v_conics_in), v_opacities2d = dense(v_opacities2d_in);
  Tensor v_log_scales = torch::stable::new_empty(log_scales, {N, 2});
  Tensor v_angles = torch::stable::new_empty(log_scales, {N});
  Tensor v_opacities = torch::stable::new_empty(log_scales, {N});
  const ProjectImageGrads g{in<float>(log_scales),
                            in<float>(angles),
                            in<float>(opacities),
                            in<int32_t>(radii),
                            in<float>(v_conics),
                            in<float>(v_opacities2d),
                            N,
                            static_cast<float>(dilation),
                            out<float>(v_log_scales),
                            out<float>(v_angles),
                            out<float>(v_opacities)};
  run_where(
      log_scales, [&] { cpu::kernels().project_image_backward(g); },
      [&](CudaCall& call) { cuda::project_image_backward(g, call.stream); });
  return {v_log_scales, v_angles, v_opacities};
}

void adam(Tensor param, const Tensor& grad_in, Tensor exp_avg, Tensor exp_avg_sq, const Tensor& steps,
          double learning_rate, double beta1, double beta2, double epsilon) {
  const int64_t rows = param.size(0);
  const Tensor grad = dense(grad_in);
  check_shape(steps, "steps", {rows}, "[rows of param]");
  check_dtype(steps, "steps", ScalarType::Int, "int32");
  const auto check = [&](const Tensor& t, const char* name) {
    check_float32(t, name);
    STD_TORCH_CHECK(t.numel() == param.numel(), name, " must have as many values as param");
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
  };
  check(param, "param");
  check(grad, "grad");
  check(exp_avg, "exp_avg");
  check(exp_avg_sq, "exp_avg_sq");
  if (rows == 0) return;
  const AdamParams p{out<float>(param),
                     in<float>(grad),
                     out<float>(exp_avg),
                     out<float>(exp_avg_sq),
                     in<int32_t>(steps),
                     rows,
                     param.numel() / rows,
                     {static_cast<float>(beta1), static_cast<float>(beta2), static_cast<float>(epsilon)},
                     static_cast<float>(learning_rate)};
  run_where(
      param, [&] { cpu::kernels().adam(p); }, [&](CudaCall& call) { cuda::adam(p, call.stream); });
}

}  // namespace
}  // namespace splat

#define SPLAT_IMAGE_OPS(m)                \
  SPLAT_IMPL(m, project_image);           \
  SPLAT_IMPL(m, project_image_backward);  \
  SPLAT_IMPL(m, adam)
STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_IMAGE_OPS(m); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_IMAGE_OPS(m); }
