// What the forward and the backward kernel over a tile share.
//
// A block of 256 threads is a tile of 16x16 pixels; each of its 8 warps owns 8x4 pixels, which are two of the tile's 4x4
// blocks. The exact ellipse test of the binning tells which blocks an entry touches, so a warp skips the entries that
// touch neither of its two: no test of bounds is needed here.
#pragma once
#include "launch.h"
#include "splat/blend.h"
#include "splat/params.h"
#include "work.h"

namespace splat::cuda {

constexpr int kThreads = kTile * kTile;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;
// Blocks on a multiprocessor that the launch bounds of the kernels below ask for: as many as fit without spilling.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kBackwardBlocks = 4;
#else
constexpr int kBackwardBlocks = 5;
#endif
constexpr int kChunk = 16;  // channels that a block handles where their number is not a common one

// Where a thread works.
struct Place {
  int lane, warp;
  int camera, x0, y0;    // tile's corner
  int32_t list;          // its first entry; there are fewer than 2^31
  int32_t begin, end;    // the entries of the block's part
  float px, py;          // pixel centre within the tile
  bool inside;           // the picture
  int64_t pixel;         // index into [C, H, W]
  unsigned block_shift;  // of the warp's two bits in a mask
};
__device__ __forceinline__ Part part_of(const Work& work) {
  return work.parts ? work.parts[blockIdx.x] : Part{int32_t(blockIdx.x), 0, 1, 0};
}
__device__ __forceinline__ Place place_of(const RasterizeParams& p, const Part& part, int32_t longest) {
  Place s;
  const int thread = int(threadIdx.x);
  s.lane = thread % kWarp;
  s.warp = thread / kWarp;
  const int64_t tiles = p.grid.tiles(), index = part.tile;
  const int in_image = int(index % tiles);
  s.camera = int(index / tiles);
  s.x0 = in_image % p.grid.tiles_x() * kTile;
  s.y0 = in_image / p.grid.tiles_x() * kTile;
  s.list = int32_t(p.lists.tile_offsets[index]);
  s.end = int32_t(p.lists.tile_offsets[index + 1]);
  s.begin = s.list + part.part * longest;
  if (part.part + 1 < part.parts) s.end = s.begin + longest;
  const int x = 8 * (s.warp & 1) + (s.lane & 7), y = 4 * (s.warp >> 1) + (s.lane >> 3);
  s.px = float(x) + 0.5f;
  s.py = float(y) + 0.5f;
  s.inside = s.x0 + x < p.grid.width && s.y0 + y < p.grid.height;
  s.pixel = (int64_t(s.camera) * p.grid.height + s.y0 + y) * p.grid.width + s.x0 + x;
  s.block_shift = unsigned(4 * (s.warp >> 1) + 2 * (s.warp & 1));
  return s;
}

// Entries of a tile in shared memory, with kColors of their colours: what a visit reads lies together.
template <int kColors>
struct alignas(16) Item {
  LocalSplat splat;
  float color[kColors];
};
template <>
struct alignas(16) Item<0> {
  LocalSplat splat;
};
template <int kCount, int kColors>
struct Batch {
  Item<kColors> item[kCount];
  int32_t index[kCount];  // camera * N + Gaussian
  uint32_t mask[kCount];

  // By threads 0 .. count - 1.
  __device__ __forceinline__ void load(const RasterizeParams& p, const Splat2D* splats, const Place& s, int32_t first,
                                       int count) {
    const int k = int(threadIdx.x);
    if (k >= count) return;
    const int32_t i = p.lists.entries[first + k];
    index[k] = i;
    mask[k] = uint16_t(p.lists.masks[first + k]);
    item[k].splat = localize(splats[i], float(s.x0), float(s.y0));
    if constexpr (kColors > 0)
      for (int d = 0; d < kColors; ++d) item[k].color[d] = p.colors[int64_t(i) * kColors + d];
  }
  // The warp's entries among the 32 from `from` on, as bits.
  __device__ __forceinline__ unsigned hits(const Place& s, int from, int count) const {
    const int k = from + s.lane;
    return __ballot_sync(kAllLanes, k < count && (mask[k] >> s.block_shift & 3u) != 0);
  }
  // Colours of item k from channel `first` of `channels` on.
  __device__ __forceinline__ const float* colors(const RasterizeParams& p, int k, int first) const {
    if constexpr (kColors > 0)
      return item[k].color;
    else
      return p.colors + int64_t(index[k]) * p.channels + first;
  }
};

// What the parts of a tile left at the thread's pixel.
struct PartPictures {
  const float* first;  // part 0's
  int channels;
  __device__ __forceinline__ PartPictures(const Work& work, const Part& part, int channels)
      : first(work.pictures + (part.slot - part.part) * picture_size(channels) + threadIdx.x), channels(channels) {}
  __device__ __forceinline__ float color(int part, int d) const {
    return first[part * picture_size(channels) + d * kThreads];
  }
  // What the compositor carried (PixelFinish), and the last entry drawn.
  __device__ __forceinline__ float value(int part) const { return color(part, channels); }
  __device__ __forceinline__ int32_t last(int part) const { return __float_as_int(color(part, channels + 1)); }
  // The parts that count: up to the one in which the pixel stopped.
  __device__ __forceinline__ int used(int parts) const {
    for (int j = 0; j < parts; ++j)
      if (value(j) < 0.0f) return j + 1;
    return parts;
  }
};

// The weight of a splat at the thread's pixel; 0 under the cutoff (infinite: always).
__device__ __forceinline__ float splat_weight(const LocalSplat& splat, const Place& s, float log2_cutoff) {
  const float e = log2_alpha(splat, s.px, s.py);
  return e >= log2_cutoff ? exp2_fast(e) : 0.0f;
}

}  // namespace splat::cuda
