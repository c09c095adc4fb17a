// L1 + SSIM. A block of 16x16 threads makes 16x16 values of one channel: the window's neighbourhood goes to shared memory, is
// blurred along x and then along y.
#include "splat/ssim.h"

#include "kernels.h"
#include "warp.cuh"

namespace splat::cuda {
namespace {

constexpr int kSide = 16, kHalf = kSsimTaps / 2, kWide = kSide + 2 * kHalf;

// Where a block works: one channel of one picture.
struct Patch {
  int x0, y0, batch, channel;
};
__device__ __forceinline__ Patch patch_of(const SsimParams& p) {
  return {int(blockIdx.x) * kSide, int(blockIdx.y) * kSide, int(blockIdx.z) / p.channels, int(blockIdx.z) % p.channels};
}
__device__ __forceinline__ int64_t value_index(const SsimParams& p, const Patch& at, int y, int x) {
  return ((int64_t(at.batch) * p.height + y) * p.width + x) * p.channels + at.channel;
}
__device__ __forceinline__ bool inside(const SsimParams& p, int y, int x) {
  return x >= 0 && y >= 0 && x < p.width && y < p.height;
}
// Whether SSIM is averaged at a pixel; pictures smaller than the window count whole.
__device__ __forceinline__ bool counted(const SsimParams& p, int y, int x) {
  if (!p.valid || p.width < kSsimTaps || p.height < kSsimTaps) return true;
  return x >= kHalf && y >= kHalf && x < p.width - kHalf && y < p.height - kHalf;
}

// Windowed means of kFields quantities at the thread's pixel. load(f, y, x) is asked for the neighbourhood, 0 outside the
// picture. All threads of the block call it.
template <int kFields, class Load>
__device__ __forceinline__ void windowed(const SsimParams& p, const Patch& at, Load&& load, float (&out)[kFields]) {
  __shared__ float raw[kWide][kWide], rows[kWide][kSide];
  const int tx = int(threadIdx.x) % kSide, ty = int(threadIdx.x) / kSide;
  for (int f = 0; f < kFields; ++f) {
    __syncthreads();  // the last field's rows have been read
    for (int k = int(threadIdx.x); k < kWide * kWide; k += kSide * kSide) {
      const int y = at.y0 + k / kWide - kHalf, x = at.x0 + k % kWide - kHalf;
      raw[k / kWide][k % kWide] = inside(p, y, x) ? load(f, y, x) : 0.0f;
    }
    __syncthreads();
    for (int k = int(threadIdx.x); k < kWide * kSide; k += kSide * kSide) {
      const float* centre = &raw[k / kSide][k % kSide + kHalf];
      float sum = ssim_window(0) * centre[0];
      for (int t = 1; t <= kHalf; ++t) sum += ssim_window(t) * (centre[-t] + centre[t]);
      rows[k / kSide][k % kSide] = sum;
    }
    __syncthreads();
    float sum = ssim_window(0) * rows[ty + kHalf][tx];
    for (int t = 1; t <= kHalf; ++t) sum += ssim_window(t) * (rows[ty + kHalf - t][tx] + rows[ty + kHalf + t][tx]);
    out[f] = sum;
  }
}

// The pair's four windowed quantities, in the order of ssim().
__device__ __forceinline__ void pair_means(const SsimParams& p, const Patch& at, float (&out)[4]) {
  windowed<4>(
      p, at,
      [&](int f, int y, int x) {
        const float a = p.image[value_index(p, at, y, x)], b = p.target[value_index(p, at, y, x)];
        return f == 0 ? a : (f == 1 ? b : (f == 2 ? a * a + b * b : a * b));
      },
      out);
}

// sums: [blocks, 2], the block's |image - target| and SSIM.
__global__ void __launch_bounds__(256) ssim_sums(SsimParams p, float* sums) {
  __shared__ float warps[8][2];
  const Patch at = patch_of(p);
  float means[4];
  pair_means(p, at, means);
  const int x = at.x0 + int(threadIdx.x) % kSide, y = at.y0 + int(threadIdx.x) / kSide;
  float values[4] = {};
  if (inside(p, y, x)) {
    const int64_t i = value_index(p, at, y, x);
    values[0] = fabsf(p.image[i] - p.target[i]);
    if (counted(p, y, x)) values[1] = ssim(means[0], means[1], means[2], means[3]);
  }
  const int lane = int(threadIdx.x) % 32;
  const float total = sum4(values, lane);
  if (lane == 0) warps[threadIdx.x / 32][0] = total;
  if (lane == 8) warps[threadIdx.x / 32][1] = total;
  __syncthreads();
  if (threadIdx.x < 2) {
    float sum = 0.0f;
    for (int w = 0; w < 8; ++w) sum += warps[w][threadIdx.x];
    const int64_t block = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    sums[2 * block + threadIdx.x] = sum;
  }
}

// result [2]: the sums over the blocks, in order, divided.
constexpr int kMeanThreads = 512;  // even: a thread meets one of the two sums only
__global__ void __launch_bounds__(512) mean_of_sums(const float* sums, int64_t blocks, double values,
                                                    double counted_values, float* result) {
  __shared__ double part[kMeanThreads];
  const int t = int(threadIdx.x);
  double total = 0.0;
  for (int64_t k = t; k < 2 * blocks; k += kMeanThreads) total += double(sums[k]);
  part[t] = total;
  for (int half = kMeanThreads / 2; half > 1; half /= 2) {
    __syncthreads();
    if (t < half) part[t] += part[t + half];
  }
  if (t < 2) result[t] = float(part[t] / (t == 0 ? values : counted_values));
}

// maps: [3][B, H, W, D], dL/d(windowed means) for unit dL/d(SSIM), 0 where SSIM is not averaged.
__global__ void __launch_bounds__(256) ssim_maps(SsimParams p, float* maps) {
  const Patch at = patch_of(p);
  float means[4];
  pair_means(p, at, means);
  const int x = at.x0 + int(threadIdx.x) % kSide, y = at.y0 + int(threadIdx.x) / kSide;
  if (!inside(p, y, x)) return;
  const SsimGradient<float> g = ssim_vjp(means[0], means[1], means[2], means[3]);
  const bool in = counted(p, y, x);
  const int64_t plane = int64_t(p.batch) * p.height * p.width * p.channels, i = value_index(p, at, y, x);
  maps[i] = in ? g.mu1 : 0.0f;
  maps[plane + i] = in ? g.squares : 0.0f;
  maps[2 * plane + i] = in ? g.product : 0.0f;
}

// The window is symmetric, so blurring the maps carries them back to the pixels. v [2]: dL/d(mean L1, mean SSIM).
__global__ void __launch_bounds__(256) ssim_vjps(SsimParams p, const float* maps, const float* v, float values,
                                                 float counted_values, float* v_image) {
  const Patch at = patch_of(p);
  const int64_t plane = int64_t(p.batch) * p.height * p.width * p.channels;
  float g[3];
  windowed<3>(p, at, [&](int f, int y, int x) { return maps[f * plane + value_index(p, at, y, x)]; }, g);
  const int x = at.x0 + int(threadIdx.x) % kSide, y = at.y0 + int(threadIdx.x) / kSide;
  if (!inside(p, y, x)) return;
  const int64_t i = value_index(p, at, y, x);
  const float a = p.image[i], t = p.target[i], sign = float(a > t) - float(a < t);
  v_image[i] = v[0] / values * sign + v[1] / counted_values * (g[0] + 2.0f * a * g[1] + t * g[2]);
}

dim3 blocks_of(const SsimParams& p) {
  return {unsigned(p.width + kSide - 1) / kSide, unsigned(p.height + kSide - 1) / kSide,
          unsigned(p.batch) * unsigned(p.channels)};
}

}  // namespace

int64_t ssim_blocks(const SsimParams& p) {
  const dim3 b = blocks_of(p);
  return int64_t(b.x) * b.y * b.z;
}

void l1_ssim(const SsimParams& p, double values, double counted_values, float* sums, float* result,
             cudaStream_t stream) {
  SPLAT_LAUNCH(ssim_sums, blocks_of(p), dim3(kSide * kSide), stream, p, sums);
  SPLAT_LAUNCH(mean_of_sums, dim3(1), dim3(kMeanThreads), stream, static_cast<const float*>(sums), ssim_blocks(p), values,
               counted_values, result);
}

void l1_ssim_backward(const SsimParams& p, double values, double counted_values, const float* v, float* maps,
                      float* v_image, cudaStream_t stream) {
  SPLAT_LAUNCH(ssim_maps, blocks_of(p), dim3(kSide * kSide), stream, p, maps);
  SPLAT_LAUNCH(ssim_vjps, blocks_of(p), dim3(kSide * kSide), stream, p, static_cast<const float*>(maps), v,
               float(values), float(counted_values), v_image);
}

}  // namespace splat::cuda
