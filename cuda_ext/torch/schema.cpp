// The signature of every op, in one place. Kernels are registered per device beside their glue (this folder); fake
// implementations and autograd are registered from Python in splat/core/<stage>.py.
//
// Shapes: N Gaussians, C cameras, D channels, M tile entries, B images. All floats are float32 unless said otherwise.
#include "checks.h"

STABLE_TORCH_LIBRARY(splat, m) {
  // Front ends: Gaussians -> Splats2D. Exactly one of (quats, scales) and covars is given.
  // means [N,3], quats [N,4] wxyz, scales [N,3], covars [N,3,3], opacities [N], viewmats [C,4,4], Ks [C,3,3]; raw: logs
  // of the scales and logits of the opacities
  // -> means2d [C,N,2], depths [C,N], conics [C,N,3], opacities2d [C,N], radii int32 [C,N,2].  float32 or float64.
  m.def(
      "project(Tensor means, Tensor? quats, Tensor? scales, Tensor? covars, Tensor opacities, Tensor viewmats, "
      "Tensor Ks, int width, int height, float eps2d, float near_plane, float far_plane, float radius_clip, "
      "int camera_model, bool antialiased, bool raw) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // -> v_means, v_quats, v_scales, v_covars ([0] where the input is absent), v_opacities, v_viewmats, v_Ks
  m.def(
      "project_backward(Tensor means, Tensor? quats, Tensor? scales, Tensor? covars, Tensor opacities, "
      "Tensor viewmats, Tensor Ks, int width, int height, float eps2d, float near_plane, float far_plane, "
      "float radius_clip, int camera_model, bool antialiased, bool raw, Tensor radii, Tensor v_means2d, "
      "Tensor v_depths, Tensor v_conics, Tensor v_opacities2d) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // means [N,3], viewmats [C,4,4], sh0 [N,1,D], shN [N,K-1,D], radii [C,N,2] -> colors [C,N,D] = max(SH + 0.5, 0)
  m.def("sh(Tensor means, Tensor viewmats, Tensor sh0, Tensor shN, Tensor radii, int degree) -> Tensor");
  // -> v_means, v_viewmats, v_sh0, v_shN
  m.def(
      "sh_backward(Tensor means, Tensor viewmats, Tensor sh0, Tensor shN, Tensor radii, int degree, Tensor colors, "
      "Tensor v_colors) -> (Tensor, Tensor, Tensor, Tensor)");
  // means [N,2] pixels, log_scales [N,2] log pixels, angles [N] radians, opacities [N], dilation pixels^2
  // -> conics [1,N,3], opacities2d [1,N], radii int32 [1,N,2]
  m.def(
      "project_image(Tensor means, Tensor log_scales, Tensor angles, Tensor opacities, int width, int height, "
      "float cutoff, float dilation) -> (Tensor, Tensor, Tensor)");
  // -> v_log_scales, v_angles, v_opacities
  m.def(
      "project_image_backward(Tensor log_scales, Tensor angles, Tensor opacities, float dilation, Tensor radii, "
      "Tensor v_conics, Tensor v_opacities2d) -> (Tensor, Tensor, Tensor)");

  // Splats2D -> TileLists. depths [C,N] may be absent (order-free); ids int64 [N] break ties of depth; a splat whose
  // colour (colors [C,N,D]) is not finite is left out.
  // -> tile_offsets int64 [C*tiles+1], entries int32 [M] (camera * N + Gaussian), masks int16 [M] (bit b: the splat
  //    touches 4x4 block b of the tile), splat_offsets int64 [C*N+1], slots int32 [M] (entry -> its Gaussian-major slot),
  //    totals int64 [2] (entries, splats with entries)
  // With room_entries >= 0 M is that number, and nothing waits for a GPU: the lists end with entries of -1, or are empty
  // where the totals exceed room_entries or room_visible.
  m.def(
      "bin(Tensor means2d, Tensor conics, Tensor opacities, Tensor radii, Tensor? depths, Tensor? ids, Tensor? colors, "
      "int width, int height, float cutoff, int room_entries, int room_visible) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // TileLists -> Image. colors [C,N,D], backgrounds [C,D] or absent.
  // -> image [C,H,W,D], alphas [C,H,W], last int32 [C,H,W] (compositor's bookkeeping for the backward pass),
  //    norm (alpha: final transmittance [C,1,H,W]; topk: K-th weight and normaliser [C,2,H,W]; sum: [0])
  // by_splat: how a GPU's backward pass sums (cuda/kernels.h, GradientSums).
  m.def(
      "rasterize(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor? backgrounds, "
      "Tensor tile_offsets, Tensor entries, Tensor masks, Tensor splat_offsets, Tensor slots, int width, int height, "
      "int blend, int topk, float cutoff, bool by_splat) -> (Tensor, Tensor, Tensor, Tensor)");
  // -> v_means2d, v_conics, v_opacities, v_colors, v_means2d_abs ([0] unless absgrad)
  m.def(
      "rasterize_backward(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor? backgrounds, "
      "Tensor tile_offsets, Tensor entries, Tensor masks, Tensor splat_offsets, Tensor slots, int width, int height, "
      "int blend, int topk, float cutoff, bool by_splat, Tensor image, Tensor last, Tensor norm, Tensor? v_image, "
      "Tensor? v_alphas, bool absgrad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // Blend sum and L = sum of weight (target - image)^2 / 2 in one pass. target_tiles [C*tiles,D,256]: in the tiles' pixel
  // order; weight_tiles [C*tiles,1 or D,256], absent: 1
  // -> residual_tiles [C*tiles,D,256] = weight (target - image), squared_errors float64 [C*tiles,2] (weighted; of the
  //    image, and of the image clamped to 0..1), v_means2d, v_conics, v_opacities, v_colors
  m.def(
      "rasterize_l2(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor tile_offsets, "
      "Tensor entries, Tensor masks, Tensor splat_offsets, Tensor slots, int width, int height, float cutoff, "
      "bool by_splat, Tensor target_tiles, Tensor? weight_tiles) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // Loss. image, target [B,H,W,D] -> [2] = (mean |image - target|, mean SSIM); valid: crop the border of 5 pixels.
  m.def("l1_ssim(Tensor image, Tensor target, bool valid) -> Tensor");
  // v [2] -> v_image
  m.def("l1_ssim_backward(Tensor image, Tensor target, bool valid, Tensor v) -> Tensor");

  // Optimiser step in place; steps int32 [rows]: the number of this step for each row, from 1.
  m.def(
      "adam(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor steps, "
      "float learning_rate, float beta1, float beta2, float epsilon) -> ()");

  // A training step of stored 3D Gaussians for one camera: the backward passes of project (raw) and sh, and Adam. param,
  // exp_avg, exp_avg_sq: means [N,3], quats [N,4], log_scales [N,3], opacity_logits [N], sh0 [N,1,D], shN [N,K-1,D];
  // steps int32 [N] are counted up; rates [6]; radii and colors as project and sh gave them, with the gradients of what
  // they gave; nothing changes where skip bool [] is true.
  m.def(
      "step(Tensor(a!)[] param, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, Tensor(d!) steps, Tensor rates, "
      "Tensor viewmats, Tensor Ks, int width, int height, float eps2d, float near_plane, float far_plane, "
      "float radius_clip, int camera_model, bool antialiased, int degree, Tensor radii, Tensor colors, "
      "Tensor v_means2d, Tensor v_depths, Tensor v_conics, Tensor v_opacities2d, Tensor v_colors, float beta1, "
      "float beta2, float epsilon, float opacity_pull, float scale_pull, bool visible_only, Tensor? skip) -> ()");

  m.def("set_num_threads(int n) -> ()");
  m.def("get_num_threads() -> int");
  m.def("cpu_isa() -> str");
  m.def("record_size(int channels, bool absgrad) -> int");  // floats of an entry's record in the backward pass
  m.def("cuda_archs() -> str");  // the GPU architectures that the CUDA kernels were built for; "": none
  m.def("knows_cuda_stream() -> bool");  // whether torch's CUDA library is there and tells its stream
  // CUDA's version (1000 * major + 10 * minor) that the kernels were linked with, and the driver's; 0: there is none.
  m.def("cuda_versions() -> (int, int)");
}
