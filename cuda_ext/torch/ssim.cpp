// l1_ssim: the photometric loss.
#include "checks.h"
#include "device.h"
#include "kernels.h"

namespace splat {
namespace {

constexpr int64_t kBorder = 5;  // half of the SSIM window

struct Pair {
  Tensor image, target;
  SsimParams params;
  double pixels, counted;  // values averaged by L1 and by SSIM
};

Pair gather_pair(const Tensor& image_in, const Tensor& target_in, bool valid) {
  check_shape(image_in, "image", {-1, -1, -1, -1}, "[B, H, W, D]");
  const int64_t B = image_in.size(0), H = image_in.size(1), W = image_in.size(2), D = image_in.size(3);
  check_shape(target_in, "target", {B, H, W, D}, "[B, H, W, D] of image");
  check_float32(image_in, "image");
  check_grid(image_in, "images x channels", B * D);
  check_float32(target_in, "target");
  const Tensor image = dense(image_in), target = dense(target_in);
  const SsimParams p{in<float>(image),        in<float>(target),       static_cast<int32_t>(B), static_cast<int32_t>(H),
                     static_cast<int32_t>(W), static_cast<int32_t>(D), valid};
  const bool cropped = valid && H > 2 * kBorder && W > 2 * kBorder;
  const int64_t border = cropped ? 2 * kBorder : 0;
  return {image, target, p, double(B * H * W * D), double(B * (H - border) * (W - border) * D)};
}

Tensor l1_ssim(const Tensor& image, const Tensor& target, bool valid) {
  const Pair pair = gather_pair(image, target, valid);
  Tensor result = torch::stable::new_empty(pair.image, {2});
  run_where(
      pair.image,
      [&] {
        double sums[2];
        cpu::kernels().l1_ssim(pair.params, sums);
        out<float>(result)[0] = static_cast<float>(sums[0] / pair.pixels);
        out<float>(result)[1] = static_cast<float>(sums[1] / pair.counted);
      },
      [&](CudaCall& call) {
        float* sums = call.scratch<float>(2 * cuda::ssim_blocks(pair.params));
        cuda::l1_ssim(pair.params, pair.pixels, pair.counted, sums, out<float>(result), call.stream);
      });
  return result;
}

Tensor l1_ssim_backward(const Tensor& image, const Tensor& target, bool valid, const Tensor& v_in) {
  const Pair pair = gather_pair(image, target, valid);
  check_shape(v_in, "v", {2}, "[2]");
  const Tensor v = dense(v_in);
  Tensor v_image = torch::stable::new_empty(pair.image, {pair.params.batch, pair.params.height, pair.params.width,
                                                         pair.params.channels});
  run_where(
      pair.image,
      [&] {
        cpu::kernels().l1_ssim_backward(pair.params, static_cast<float>(in<float>(v)[0] / pair.pixels),
                                        static_cast<float>(in<float>(v)[1] / pair.counted), out<float>(v_image));
      },
      [&](CudaCall& call) {
        float* maps = call.scratch<float>(3 * pair.image.numel());
        cuda::l1_ssim_backward(pair.params, pair.pixels, pair.counted, in<float>(v), maps, out<float>(v_image),
                               call.stream);
      });
  return v_image;
}

}  // namespace
}  // namespace splat

#define SPLAT_SSIM_OPS(m)  \
  SPLAT_IMPL(m, l1_ssim);  \
  SPLAT_IMPL(m, l1_ssim_backward)
STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_SSIM_OPS(m); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_SSIM_OPS(m); }
