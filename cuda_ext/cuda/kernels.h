// The CUDA kernels' entry points. Pointers are device memory; nothing waits for the host.
#pragma once
#include "launch.h"
#include "splat/params.h"

namespace splat::cuda {

// splats: [S] scratch for splats ready to blend, filled by the forward pass and read by the backward pass.
void rasterize_forward(const RasterizeParams& p, Splat2D* splats, cudaStream_t stream);

// records: [M, record_size(channels, abs)] scratch.
void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, float* records,
                        cudaStream_t stream);

}  // namespace splat::cuda
