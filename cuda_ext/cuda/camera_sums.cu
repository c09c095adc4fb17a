#include "camera_sums.cuh"

namespace splat::cuda {
namespace {

// One block a camera, a thread for each of its numbers.
__global__ void add_shares(const float* partial, int64_t blocks, int64_t cameras, float* v_viewmats, float* v_Ks) {
  const int64_t c = blockIdx.x;
  const int k = int(threadIdx.x);
  double total = 0.0;
  if (k < kCameraSums)
    for (int64_t b = 0; b < blocks; ++b) total += double(partial[(b * cameras + c) * kCameraSums + k]);
  if (k < 16) v_viewmats[16 * c + k] = k < 12 ? float(total) : 0.0f;
  if (v_Ks == nullptr) return;
  const int place[4] = {0, 4, 2, 5};  // of fx, fy, cx, cy in K
  if (k < 9 && k != 0 && k != 4 && k != 2 && k != 5) v_Ks[9 * c + k] = 0.0f;
  if (k >= 12 && k < kCameraSums) v_Ks[9 * c + place[k - 12]] = float(total);
}

}  // namespace

void add_blocks(const float* partial, int64_t blocks, int64_t cameras, float* v_viewmats, float* v_Ks,
                cudaStream_t stream) {
  if (cameras > 0)
    SPLAT_LAUNCH(add_shares, dim3(unsigned(cameras)), dim3(32), stream, partial, blocks, cameras, v_viewmats, v_Ks);
}

}  // namespace splat::cuda
