// The loss of an image fit between the two passes of the rasteriser: residual, squared errors and dL/dimage.
#include "kernels.h"
#include "launch.h"

namespace splat::cuda {
namespace {

constexpr int kPixels = kTile * kTile;

// Sum over the block in a fixed order; all threads call it, and all get it.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double part[kPixels];
  __syncthreads();  // the last sum has been read
  part[threadIdx.x] = value;
  for (int half = kPixels / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  __syncthreads();
  return part[0];
}

// A block for each tile, a thread for each pixel, in the order of tiled pictures: 4x4 blocks of 4x4 pixels.
__global__ void __launch_bounds__(256) residual_tiles(RasterizeParams p, L2Params l2, float* v_image) {
  const int64_t tiles = p.grid.tiles(), index = blockIdx.x;
  const int in_image = int(index % tiles), t = int(threadIdx.x), block = t / 16, pixel = t % 16;
  const int x = in_image % p.grid.tiles_x() * kTile + 4 * (block % 4) + pixel % 4;
  const int y = in_image / p.grid.tiles_x() * kTile + 4 * (block / 4) + pixel / 4;
  const bool inside = x < p.grid.width && y < p.grid.height;
  const int64_t at = ((index / tiles * p.grid.height + y) * p.grid.width + x) * p.channels;
  double squared = 0.0, clamped = 0.0;
  for (int d = 0; d < p.channels; ++d) {
    const int64_t tiled = (index * p.channels + d) * kPixels + t;
    const float value = inside ? p.image[at + d] : 0.0f, target = l2.target[tiled];
    const float weight = l2.weights ? l2.weights[l2.weight_at(index, d, t)] : 1.0f;
    const float error = inside ? target - value : 0.0f, residual = weight * error;
    const float off = inside ? target - minimum(maximum(value, 0.0f), 1.0f) : 0.0f;
    l2.residual[tiled] = residual;
    squared += double(residual) * error;
    clamped += double(weight) * off * off;
    if (inside) v_image[at + d] = -residual;
  }
  squared = block_sum(squared);
  clamped = block_sum(clamped);
  if (t == 0) l2.squared_errors[2 * index] = squared, l2.squared_errors[2 * index + 1] = clamped;
}

}  // namespace

void image_residual(const RasterizeParams& p, const L2Params& l2, float* v_image, cudaStream_t stream) {
  const unsigned tiles = unsigned(p.cameras * p.grid.tiles());
  if (tiles > 0) SPLAT_LAUNCH(residual_tiles, dim3(tiles), dim3(kPixels), stream, p, l2, v_image);
}

}  // namespace splat::cuda
