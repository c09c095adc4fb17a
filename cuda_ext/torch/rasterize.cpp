// rasterize: TileLists -> Image, its gradient, and both at once for least squares.
#include "checks.h"
#include "device.h"
#include "kernels.h"
#include "splat/records.h"

namespace splat {
namespace {

// Contiguous copies (or the tensors themselves) of what both directions read; keeps them alive for the raw pointers.
struct Inputs {
  Tensor means2d, conics, opacities, colors;
  OptTensor backgrounds;
  Tensor tile_offsets, entries, masks, splat_offsets, slots;
  int64_t C, N, D;

  RasterizeParams params(int64_t width, int64_t height, int64_t blend, int64_t topk, double cutoff) const {
    RasterizeParams p{};
    p.grid = {static_cast<int32_t>(width), static_cast<int32_t>(height)};
    p.cameras = static_cast<int32_t>(C);
    p.channels = static_cast<int32_t>(D);
    p.blend = static_cast<Blend>(blend);
    p.topk = static_cast<int32_t>(topk);
    p.cutoff = static_cast<float>(cutoff);
    p.splats = {in<float>(means2d), in<float>(conics), in<float>(opacities), nullptr, C * N};
    p.colors = in<float>(colors);
    p.backgrounds = backgrounds ? in<float>(*backgrounds) : nullptr;
    p.lists = {in<int64_t>(tile_offsets), in<int32_t>(entries), in<int16_t>(masks), in<int64_t>(splat_offsets),
               in<int32_t>(slots), entries.size(0)};
    STD_TORCH_CHECK(tile_offsets.size(0) == C * p.grid.tiles() + 1, "tile_offsets must have shape [C * tiles + 1] = [",
                    C * p.grid.tiles() + 1, "], got ", shape_of(tile_offsets), "; were the lists made for this size?");
    return p;
  }
};

Inputs gather_inputs(const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
                     const OptTensor& backgrounds, const Tensor& tile_offsets, const Tensor& entries,
                     const Tensor& masks, const Tensor& splat_offsets, const Tensor& slots, int64_t blend,
                     int64_t topk) {
  check_shape(means2d, "means2d", {-1, -1, 2}, "[C, N, 2]");
  const int64_t C = means2d.size(0), N = means2d.size(1);
  check_shape(conics, "conics", {C, N, 3}, "[C, N, 3]");
  check_shape(opacities, "opacities", {C, N}, "[C, N]");
  check_shape(colors, "colors", {C, N, -1}, "[C, N, D]");
  const int64_t D = colors.size(2), M = entries.dim() == 1 ? entries.size(0) : -1;
  STD_TORCH_CHECK(D >= 1, "colors must have at least one channel, got shape ", shape_of(colors));
  if (backgrounds) check_shape(*backgrounds, "backgrounds", {C, D}, "[C, D]");
  check_shape(entries, "entries", {-1}, "[M]");
  check_shape(masks, "masks", {M}, "[M]");
  check_shape(slots, "slots", {M}, "[M]");
  check_shape(splat_offsets, "splat_offsets", {C * N + 1}, "[C * N + 1]");
  check_float32(means2d, "means2d");
  check_float32(conics, "conics");
  check_float32(opacities, "opacities");
  check_float32(colors, "colors");
  if (backgrounds) check_float32(*backgrounds, "backgrounds");
  STD_TORCH_CHECK(blend >= 0 && blend <= 2, "blend must be 0 (alpha), 1 (sum) or 2 (topk), got ", blend);
  STD_TORCH_CHECK(blend != 2 || (topk >= 1 && topk <= 1024), "topk must be in 1 .. 1024, got ", topk);
  return {dense(means2d),
          dense(conics),
          dense(opacities),
          dense(colors),
          backgrounds ? OptTensor(dense(*backgrounds)) : std::nullopt,
          dense(tile_offsets),
          dense(entries),
          dense(masks),
          dense(splat_offsets),
          dense(slots),
          C,
          N,
          D};
}

// Splats ready to blend, on the GPU.
const Splat2D* ready_splats(const RasterizeParams& p, CudaCall& call) {
  STD_TORCH_CHECK(p.blend != Blend::kTopK || p.topk <= cuda::kMaxTop, "topk must be at most ", cuda::kMaxTop,
                  " on a GPU, got ", p.topk);
  Splat2D* splats = call.scratch<Splat2D>(p.splats.count);
  cuda::blend_splats(p.splats, p.cutoff, splats, call.stream);
  return splats;
}

cuda::Work shared_out(const RasterizeParams& p, CudaCall& call) {
  return cuda::share(p, cuda::share_tiles(p), call.arena(), call.stream);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rasterize(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const OptTensor& backgrounds, const Tensor& tile_offsets, const Tensor& entries, const Tensor& masks,
    const Tensor& splat_offsets, const Tensor& slots, int64_t width, int64_t height, int64_t blend, int64_t topk,
    double cutoff, bool) {
  const Inputs inputs = gather_inputs(means2d, conics, opacities, colors, backgrounds, tile_offsets, entries, masks,
                                      splat_offsets, slots, blend, topk);
  RasterizeParams p = inputs.params(width, height, blend, topk, cutoff);
  const int64_t C = inputs.C;
  Tensor image = torch::stable::new_empty(inputs.means2d, {C, height, width, inputs.D});
  Tensor alphas = torch::stable::new_empty(inputs.means2d, {C, height, width});
  const bool order_free_sum = p.blend == Blend::kSum;
  Tensor last = torch::stable::new_empty(inputs.entries, {order_free_sum ? 0 : C, height, width});
  Tensor norm = torch::stable::new_empty(inputs.means2d,
                                         {order_free_sum ? 0 : C, p.blend == Blend::kTopK ? 2 : 1, height, width});
  p.image = out<float>(image);
  p.alphas = out<float>(alphas);
  p.last = out<int32_t>(last);
  p.norm = out<float>(norm);
  run_where(
      inputs.means2d, [&] { cpu::kernels().rasterize_forward(p); },
      [&](CudaCall& call) { cuda::rasterize_forward(p, ready_splats(p, call), shared_out(p, call), call.stream); });
  return {image, alphas, last, norm};
}

struct Gradients {
  Tensor means2d, conics, opacities, colors, abs;

  Gradients(const Inputs& i, bool absgrad)
      : means2d(torch::stable::new_empty(i.means2d, {i.C, i.N, 2})),
        conics(torch::stable::new_empty(i.means2d, {i.C, i.N, 3})),
        opacities(torch::stable::new_empty(i.means2d, {i.C, i.N})),
        colors(torch::stable::new_empty(i.means2d, {i.C, i.N, i.D})),
        abs(torch::stable::new_empty(i.means2d, {absgrad ? i.C : 0, i.N, 2})) {}

  RasterizeGrads pointers(const float* v_image, const float* v_alphas, bool absgrad) {
    return {v_image,           v_alphas,           out<float>(means2d), out<float>(conics),
            out<float>(opacities), out<float>(colors), absgrad ? out<float>(abs) : nullptr};
  }
};

void backward_on_cuda(const RasterizeParams& p, const RasterizeGrads& g, bool by_splat, const Splat2D* splats,
                      const cuda::Work& work, CudaCall& call) {
  const int64_t rows = by_splat ? p.splats.count : p.lists.count;
  float* sums = call.scratch<float>(rows * record_size(p.channels, g.v_means2d_abs != nullptr));
  cuda::rasterize_backward(p, g, splats, {sums, by_splat}, work, call.stream);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rasterize_backward(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const OptTensor& backgrounds, const Tensor& tile_offsets, const Tensor& entries, const Tensor& masks,
    const Tensor& splat_offsets, const Tensor& slots, int64_t width, int64_t height, int64_t blend, int64_t topk,
    double cutoff, bool by_splat, const Tensor& image_in, const Tensor& last_in, const Tensor& norm_in, const OptTensor& v_image_in,
    const OptTensor& v_alphas_in, bool absgrad) {
  const Inputs inputs = gather_inputs(means2d, conics, opacities, colors, backgrounds, tile_offsets, entries, masks,
                                      splat_offsets, slots, blend, topk);
  RasterizeParams p = inputs.params(width, height, blend, topk, cutoff);
  const int64_t C = inputs.C;
  if (v_image_in) check_shape(*v_image_in, "v_image", {C, height, width, inputs.D}, "[C, H, W, D]");
  if (v_alphas_in) check_shape(*v_alphas_in, "v_alphas", {C, height, width}, "[C, H, W]");
  const Tensor image = dense(image_in), last = dense(last_in), norm = dense(norm_in);
  const OptTensor v_image = v_image_in ? OptTensor(dense(*v_image_in)) : std::nullopt;
  const OptTensor v_alphas = v_alphas_in ? OptTensor(dense(*v_alphas_in)) : std::nullopt;
  // The backward pass only reads these; the struct is shared with the forward pass, which writes them.
  p.image = const_cast<float*>(in<float>(image));
  p.last = const_cast<int32_t*>(in<int32_t>(last));
  p.norm = const_cast<float*>(in<float>(norm));
  Gradients v(inputs, absgrad);
  const RasterizeGrads g = v.pointers(v_image ? in<float>(*v_image) : nullptr,
                                      v_alphas ? in<float>(*v_alphas) : nullptr, absgrad);
  run_where(
      inputs.means2d, [&] { cpu::kernels().rasterize_backward(p, g); },
      [&](CudaCall& call) { backward_on_cuda(p, g, by_splat, ready_splats(p, call), shared_out(p, call), call); });
  return {v.means2d, v.conics, v.opacities, v.colors, v.abs};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rasterize_l2(
    const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const Tensor& colors,
    const Tensor& tile_offsets, const Tensor& entries, const Tensor& masks, const Tensor& splat_offsets,
    const Tensor& slots, int64_t width, int64_t height, double cutoff, bool by_splat, const Tensor& target_in,
    const OptTensor& weights_in) {
  const auto sum = static_cast<int64_t>(Blend::kSum);
  const Inputs inputs = gather_inputs(means2d, conics, opacities, colors, std::nullopt, tile_offsets, entries, masks,
                                      splat_offsets, slots, sum, 1);
  RasterizeParams p = inputs.params(width, height, sum, 1, cutoff);
  const int64_t tiles = inputs.C * p.grid.tiles();
  check_shape(target_in, "target_tiles", {tiles, inputs.D, kTile * kTile}, "[C * tiles, D, 256]");
  check_float32(target_in, "target_tiles");
  const Tensor target = dense(target_in);
  const int64_t weight_channels = weights_in && weights_in->dim() == 3 && weights_in->size(1) == 1 ? 1 : inputs.D;
  if (weights_in) {
    check_shape(*weights_in, "weight_tiles", {tiles, weight_channels, kTile * kTile}, "[C * tiles, 1 or D, 256]");
    check_float32(*weights_in, "weight_tiles");
  }
  const OptTensor weights = weights_in ? OptTensor(dense(*weights_in)) : std::nullopt;
  Tensor residual = torch::stable::new_empty(target, {tiles, inputs.D, kTile * kTile});
  Tensor squared_errors = torch::stable::new_empty(target, {tiles, 2}, ScalarType::Double);
  Gradients v(inputs, false);
  RasterizeGrads g = v.pointers(nullptr, nullptr, false);
  const L2Params l2{in<float>(target), weights ? in<float>(*weights) : nullptr, static_cast<int32_t>(weight_channels),
                    out<float>(residual), out<double>(squared_errors)};
  run_where(
      inputs.means2d, [&] { cpu::kernels().rasterize_l2(p, g, l2); },
      [&](CudaCall& call) {  // the picture and dL/dpicture stay in the GPU's cache between the passes
        const int64_t pixels = inputs.C * width * height;
        p.image = call.scratch<float>(pixels * inputs.D);
        p.alphas = call.scratch<float>(pixels);
        float* v_image = call.scratch<float>(pixels * inputs.D);
        g.v_image = v_image;
        const Splat2D* splats = ready_splats(p, call);
        const cuda::Work work = shared_out(p, call);
        cuda::rasterize_forward(p, splats, work, call.stream);
        cuda::image_residual(p, l2, v_image, call.stream);
        backward_on_cuda(p, g, by_splat, splats, work, call);
      });
  return {residual, squared_errors, v.means2d, v.conics, v.opacities, v.colors};
}

}  // namespace
}  // namespace splat

#define SPLAT_RASTERIZE_OPS(m)        \
  SPLAT_IMPL(m, rasterize);           \
  SPLAT_IMPL(m, rasterize_backward);  \
  SPLAT_IMPL(m, rasterize_l2)
STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_RASTERIZE_OPS(m); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_RASTERIZE_OPS(m); }
