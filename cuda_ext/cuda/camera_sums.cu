#include "camera_sums.cuh"

namespace splat::cuda {
namespace {

constexpr int kAddThreads = 512, kRows = kAddThreads / kCameraSums;

// One block a camera. Thread t adds number t % 16 of every 32nd block of Gaussians, and a tree adds the threads' sums.
__global__ void __launch_bounds__(512) add_shares(const float* partial, int64_t blocks, int64_t cameras,
                                                  float* v_viewmats, float* v_Ks) {
  __shared__ double part[kAddThreads];
  const int64_t c = blockIdx.x;
  const int t = int(threadIdx.x), k = t % kCameraSums;
  double total = 0.0;
  for (int64_t b = t / kCameraSums; b < blocks; b += kRows)
    total += double(partial[(b * cameras + c) * kCameraSums + k]);
  part[t] = total;
  for (int half = kAddThreads / 2; half >= kCameraSums; half /= 2) {
    __syncthreads();
    if (t < half) part[t] += part[t + half];
  }
  if (t < 16) v_viewmats[16 * c + t] = t < 12 ? float(part[t]) : 0.0f;
  if (v_Ks == nullptr) return;
  const int place[4] = {0, 4, 2, 5};  // of fx, fy, cx, cy in K
  if (t < 9 && t != 0 && t != 4 && t != 2 && t != 5) v_Ks[9 * c + t] = 0.0f;
  if (t >= 12 && t < kCameraSums) v_Ks[9 * c + place[t - 12]] = float(part[t]);
}

}  // namespace

void add_blocks(const float* partial, int64_t blocks, int64_t cameras, float* v_viewmats, float* v_Ks,
                cudaStream_t stream) {
  if (cameras > 0)
    SPLAT_LAUNCH(add_shares, dim3(unsigned(cameras)), dim3(kAddThreads), stream, partial, blocks, cameras, v_viewmats,
                 v_Ks);
}

}  // namespace splat::cuda
