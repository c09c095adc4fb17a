// The CUDA kernels' entry points. Pointers are device memory; nothing waits for the host.
#pragma once
#include "launch.h"
#include "splat/params.h"

namespace splat::cuda {

void project(const ProjectParams<float>& p, cudaStream_t stream);

// partial: [sum_blocks(count), C, kCameraSums] scratch (camera_sums.cuh), also below.
void project_backward(const ProjectParams<float>& p, const ProjectGrads<float>& g, float* partial, cudaStream_t stream);

void sh(const ShParams<float>& p, cudaStream_t stream);
void sh_backward(const ShParams<float>& p, const ShGrads<float>& g, float* partial, cudaStream_t stream);

void project_image(const ProjectImageParams& p, cudaStream_t stream);
void project_image_backward(const ProjectImageGrads& g, cudaStream_t stream);

void adam(const AdamParams& p, cudaStream_t stream);

// values, counted_values: how many L1 and SSIM are averaged over. sums: [ssim_blocks, 2] scratch; result [2]: the means.
int64_t ssim_blocks(const SsimParams& p);
void l1_ssim(const SsimParams& p, double values, double counted_values, float* sums, float* result, cudaStream_t stream);
// v [2]: dL/d(result), on the device; maps: [3, B, H, W, D] scratch.
void l1_ssim_backward(const SsimParams& p, double values, double counted_values, const float* v, float* maps,
                      float* v_image, cudaStream_t stream);

// splats: [S] scratch for splats ready to blend, filled by the forward pass and read by the backward pass.
void rasterize_forward(const RasterizeParams& p, Splat2D* splats, cudaStream_t stream);

// records: [M, record_size(channels, abs)] scratch.
void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, float* records,
                        cudaStream_t stream);

}  // namespace splat::cuda
