// The CUDA kernels' entry points. Pointers are device memory; nothing waits for the host.
#pragma once
#include "splat/params.h"
#include "stream.h"
#include "work.h"

namespace splat::cuda {

// What went wrong since the last call, or null.
SPLAT_CUDA_API const char* last_error();

// Makes a GPU the current one of this library's CUDA runtime, which is not torch's.
SPLAT_CUDA_API void select_device(int device);

// CUDA's version, 1000 * major + 10 * minor: of the runtime that is linked in, and the newest that the driver knows (0: no
// driver).
struct Versions {
  int runtime, driver;
};
SPLAT_CUDA_API Versions versions();

SPLAT_CUDA_API void project(const ProjectParams<float>& p, cudaStream_t stream);

// Blocks of the kernels that sum over Gaussians.
constexpr int kSumThreads = 256;
inline int64_t sum_blocks(int64_t count) { return (count + kSumThreads - 1) / kSumThreads; }

// partial: [sum_blocks(count), C, kCameraSums] scratch, also below.
SPLAT_CUDA_API void project_backward(const ProjectParams<float>& p, const ProjectGrads<float>& g, float* partial, cudaStream_t stream);

SPLAT_CUDA_API void sh(const ShParams<float>& p, cudaStream_t stream);
SPLAT_CUDA_API void sh_backward(const ShParams<float>& p, const ShGrads<float>& g, float* partial, cudaStream_t stream);

SPLAT_CUDA_API void project_image(const ProjectImageParams& p, cudaStream_t stream);
SPLAT_CUDA_API void project_image_backward(const ProjectImageGrads& g, cudaStream_t stream);

SPLAT_CUDA_API void adam(const AdamParams& p, cudaStream_t stream);
SPLAT_CUDA_API void step(const StepParams& p, cudaStream_t stream);

// values, counted_values: how many L1 and SSIM are averaged over. sums: [ssim_blocks, 2] scratch; result [2]: the means.
SPLAT_CUDA_API int64_t ssim_blocks(const SsimParams& p);
SPLAT_CUDA_API void l1_ssim(const SsimParams& p, double values, double counted_values, float* sums, float* result, cudaStream_t stream);
// v [2]: dL/d(result), on the device; maps: [3, B, H, W, D] scratch.
SPLAT_CUDA_API void l1_ssim_backward(const SsimParams& p, double values, double counted_values, const float* v, float* maps,
                      float* v_image, cudaStream_t stream);

// out: [S], splats ready to blend, for the two passes below.
SPLAT_CUDA_API void blend_splats(const SplatArrays& splats, float cutoff, Splat2D* out, cudaStream_t stream);

// Largest K of topk.
constexpr int kMaxTop = 64;
SPLAT_CUDA_API void rasterize_forward(const RasterizeParams& p, const Splat2D* splats, const Work& work,
                                      cudaStream_t stream);

// Scratch of the backward pass: a record (splat/records.h) for each entry, at its slot, which are summed in order; or one
// for each splat, to which its entries are added as they come: less memory, and other last bits on every run.
struct GradientSums {
  float* values;  // [M or S, record_size(channels, abs)]
  bool by_splat;
};
SPLAT_CUDA_API void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats,
                                       const GradientSums& sums, const Work& work, cudaStream_t stream);

// alpha: the partial pictures of the tiles that are split, once more for the backward pass; no other tile is drawn.
void part_pictures(const RasterizeParams& p, const Splat2D* splats, const Work& work, cudaStream_t stream);

// Blend sum against a target: residual and squared errors. image: [C, H, W, D]; v_image: [C, H, W, D], -residual.
SPLAT_CUDA_API void image_residual(const RasterizeParams& p, const L2Params& l2, float* v_image, cudaStream_t stream);

}  // namespace splat::cuda
