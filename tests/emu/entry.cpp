// The emulated kernels behind a C interface, for ctypes. Pointers are those of CPU tensors.
#include <vector>

#include "binning.h"
#include "kernels.h"

using namespace splat;

namespace {

// pointers and numbers in the order of emulator.py.
RasterizeParams params(void* const* t, const int64_t* n, float cutoff) {
  RasterizeParams p{};
  p.grid = {int32_t(n[0]), int32_t(n[1])};
  p.cameras = int32_t(n[2]);
  p.channels = int32_t(n[3]);
  p.blend = Blend(n[4]);
  p.topk = int32_t(n[5]);
  p.cutoff = cutoff;
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  p.splats = {f(0), f(1), f(2), nullptr, n[6]};
  p.colors = f(3);
  p.backgrounds = f(4);
  p.lists = {static_cast<int64_t*>(t[5]), static_cast<int32_t*>(t[6]), static_cast<int16_t*>(t[7]),
             static_cast<int64_t*>(t[8]), static_cast<int32_t*>(t[9]), n[7]};
  p.image = f(10);
  p.alphas = f(11);
  p.last = static_cast<int32_t*>(t[12]);
  p.norm = f(13);
  return p;
}

// numbers: N, C, width, height, camera model, antialiased, raw; reals: eps2d, near, far, radius_clip.
ProjectParams<float> project_params(void* const* t, const int64_t* n, const float* reals) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  ProjectParams<float> p{};
  p.means = f(0), p.quats = f(1), p.scales = f(2), p.covars = f(3), p.opacities = f(4), p.viewmats = f(5), p.Ks = f(6);
  p.count = n[0];
  p.cameras = int32_t(n[1]), p.width = int32_t(n[2]), p.height = int32_t(n[3]), p.camera_model = int32_t(n[4]);
  p.antialiased = n[5] != 0, p.raw = n[6] != 0;
  p.eps2d = reals[0], p.near_plane = reals[1], p.far_plane = reals[2], p.radius_clip = reals[3];
  p.means2d = f(7), p.depths = f(8), p.conics = f(9), p.opacities2d = f(10);
  p.radii = static_cast<int32_t*>(t[11]);
  return p;
}

// Memory for one call.
struct Memory {
  std::vector<std::vector<char>> all;
  Memory() { all.reserve(256); }
  cuda::Arena arena() {
    return {this, [](void* owner, size_t bytes) -> void* {
              return static_cast<Memory*>(owner)->all.emplace_back(bytes, char(0x7f)).data();
            }};
  }
};

}  // namespace

extern "C" {

void emu_set_reversed(int reversed) { emu::reversed = reversed != 0; }

// longest, by_length: cuda::Sharing.
void emu_rasterize_forward(void* const* tensors, const int64_t* numbers, float cutoff, void* splats, int longest,
                           int by_length) {
  Memory memory;
  const RasterizeParams p = params(tensors, numbers, cutoff);
  cuda::blend_splats(p.splats, cutoff, static_cast<Splat2D*>(splats), nullptr);
  const cuda::Work work = cuda::share(p, {longest, by_length != 0}, memory.arena(), nullptr);
  cuda::rasterize_forward(p, static_cast<Splat2D*>(splats), work, nullptr);
}

void emu_rasterize_backward(void* const* tensors, const int64_t* numbers, float cutoff, void* splats,
                            void* const* grads, float* sums, int by_splat, int longest, int by_length) {
  Memory memory;
  const RasterizeParams p = params(tensors, numbers, cutoff);
  const auto f = [&](int i) { return static_cast<float*>(grads[i]); };
  const RasterizeGrads g{f(0), f(1), f(2), f(3), f(4), f(5), f(6)};
  const cuda::Work work = cuda::share(p, {longest, by_length != 0}, memory.arena(), nullptr);
  cuda::rasterize_backward(p, g, static_cast<Splat2D*>(splats), {sums, by_splat != 0}, work, nullptr);
}

// tensors as for emu_rasterize_forward, then target, weights, residual, squared errors (all tiled), v_image.
void emu_image_residual(void* const* t, const int64_t* numbers, int weight_channels) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  const L2Params l2{f(14), f(15), weight_channels, f(16), static_cast<double*>(t[17])};
  cuda::image_residual(params(t, numbers, 0.0f), l2, f(18), nullptr);
}

void emu_project(void* const* tensors, const int64_t* numbers, const float* reals) {
  cuda::project(project_params(tensors, numbers, reals), nullptr);
}

int64_t emu_sum_blocks(int64_t count) { return cuda::sum_blocks(count); }

void emu_project_backward(void* const* tensors, const int64_t* numbers, const float* reals, void* const* grads,
                          float* partial) {
  const auto f = [&](int i) { return static_cast<float*>(grads[i]); };
  const ProjectGrads<float> g{f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10)};
  cuda::project_backward(project_params(tensors, numbers, reals), g, partial, nullptr);
}

// numbers: N, stride of shN, C, D, degree.
void emu_sh(void* const* t, const int64_t* n, int backward, float* partial) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  const ShParams<float> p{f(0),  f(1), f(2), f(3), static_cast<int32_t*>(t[4]), n[0], n[1], int32_t(n[2]), int32_t(n[3]),
                          int32_t(n[4]), f(5)};
  if (backward)
    cuda::sh_backward(p, {f(6), f(7), f(8), f(9), f(10)}, partial, nullptr);
  else
    cuda::sh(p, nullptr);
}

// tensors: param, exp_avg and exp_avg_sq (six each), steps, rates, viewmat, K, radii, colors, then the gradients of
// means2d, depths, conics, opacities and colours, skip; numbers as for emu_project, then D, values per row of shN, degree,
// visible_only; reals: the projection's four, beta1, beta2, epsilon, the pulls on opacity and scale.
void emu_step(void* const* t, const int64_t* n, const float* reals) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  void* const projected[] = {t[0], t[1], t[2],    nullptr, t[3],    t[20],
                             t[21], nullptr, nullptr, nullptr, nullptr, t[22]};
  StepParams p{};
  p.project = project_params(projected, n, reals);
  for (int k = 0; k < kStored; ++k) p.param[k] = f(k), p.exp_avg[k] = f(6 + k), p.exp_avg_sq[k] = f(12 + k);
  p.steps = static_cast<int32_t*>(t[18]);
  p.rates = f(19);
  p.splats.v_means2d = f(24), p.splats.v_depths = f(25), p.splats.v_conics = f(26), p.splats.v_opacities2d = f(27);
  p.v_colors = f(28);
  p.sh = {f(0), f(20), f(4), f(5), static_cast<int32_t*>(t[22]), n[0], n[8], 1, int32_t(n[7]), int32_t(n[9]), f(23)};
  p.skip = static_cast<bool*>(t[29]);
  p.rule = {reals[4], reals[5], reals[6]};
  p.opacity_pull = reals[7], p.scale_pull = reals[8];
  p.visible_only = n[10] != 0;
  cuda::step(p, nullptr);
}

// tensors: means2d, conics, opacities, radii, depths, ids, colors, splat_offsets, totals, tile_offsets, entries, masks,
// slots; numbers: S, C, D, width, height, room for entries and for visible splats. Without lists it makes the totals alone.
int64_t emu_bin(void* const* t, const int64_t* n, float cutoff) {
  Memory memory;
  const cuda::Arena arena = memory.arena();
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  const auto i32 = [&](int i) { return static_cast<int32_t*>(t[i]); };
  const auto i64 = [&](int i) { return static_cast<int64_t*>(t[i]); };
  const cuda::BinParams p{{f(0), f(1), f(2), i32(3), n[0], f(6), int32_t(n[2])},
                          {int32_t(n[3]), int32_t(n[4])},
                          int32_t(n[1]),
                          cutoff,
                          f(4),
                          i64(5)};
  auto* totals = reinterpret_cast<cuda::BinSizes*>(t[8]);
  const cuda::BinCounts counts = cuda::bin_count(p, arena, i64(7), totals, nullptr);
  if (t[10] != nullptr)
    cuda::bin_fill(p, arena, counts, {i64(9), i32(10), static_cast<int16_t*>(t[11]), i32(12), {n[5], n[6]}}, nullptr);
  return cuda::read_totals(totals, nullptr).entries;
}

// How far the float and the double factor of a conic are apart, relative to each entry: in [6] as make_splat, out [3].
void emu_factor(void* const* t, const int64_t*) {
  const float* in = static_cast<float*>(t[0]);
  float* out = static_cast<float*>(t[1]);
  const Splat2D a = make_splat_in<float>(in[0], in[1], in[2], in[3], in[4], in[5], -8.0f);
  const Splat2D b = make_splat_in<double>(in[0], in[1], in[2], in[3], in[4], in[5], -8.0f);
  out[0] = fabsf(a.ux - b.ux) / b.ux;
  out[1] = b.uy == 0.0f ? fabsf(a.uy) : fabsf((a.uy - b.uy) / b.uy);
  out[2] = fabsf(a.vy - b.vy) / b.vy;
}

// tensors: image, target, sums, result, v, maps, v_image; numbers: B, H, W, D, valid, values, counted values.
int64_t emu_ssim(void* const* t, const int64_t* n, int what) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  const SsimParams p{f(0), f(1), int32_t(n[0]), int32_t(n[1]), int32_t(n[2]), int32_t(n[3]), n[4] != 0};
  if (what == 1) cuda::l1_ssim(p, double(n[5]), double(n[6]), f(2), f(3), nullptr);
  if (what == 2) cuda::l1_ssim_backward(p, double(n[5]), double(n[6]), f(4), f(5), f(6), nullptr);
  return cuda::ssim_blocks(p);
}

// tensors: means, log_scales, angles, opacities, radii, conics, opacities2d, then the gradients of conics, opacities2d,
// log_scales, angles and opacities; numbers: N, W, H; reals: cutoff, dilation.
void emu_project_image(void* const* t, const int64_t* n, const float* reals) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  int32_t* radii = static_cast<int32_t*>(t[4]);
  const TileGrid grid{int32_t(n[1]), int32_t(n[2])};
  if (t[7] == nullptr)
    cuda::project_image({f(0), f(1), f(2), f(3), n[0], grid, reals[0], reals[1], radii, f(5), f(6)}, nullptr);
  else
    cuda::project_image_backward({f(1), f(2), f(3), radii, f(7), f(8), n[0], reals[1], f(9), f(10), f(11)}, nullptr);
}

// tensors: param, grad, exp_avg, exp_avg_sq, steps; numbers: rows, columns; reals: rate, beta1, beta2, epsilon.
void emu_adam(void* const* t, const int64_t* n, const float* reals) {
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  cuda::adam({f(0), f(1), f(2), f(3), static_cast<int32_t*>(t[4]), n[0], n[1], {reals[1], reals[2], reals[3]}, reals[0]},
             nullptr);
}
}
