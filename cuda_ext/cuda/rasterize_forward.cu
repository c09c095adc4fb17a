// Tile lists -> image.
#include "kernels.h"
#include "tile.cuh"

namespace splat::cuda {
namespace {

constexpr int kBatch = kThreads;  // entries in shared memory at a time

__global__ void __launch_bounds__(256) make_splats(SplatArrays a, float cutoff, Splat2D* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.count)
    out[i] = make_splat(a.means2d[2 * i], a.means2d[2 * i + 1], a.conics[3 * i], a.conics[3 * i + 1],
                        a.conics[3 * i + 2], a.opacities[i], log2_fast(cutoff));
}

// What a pixel carries from entry to entry.
template <Blend kBlend>
struct Pixel {
  float value = kBlend == Blend::kAlpha ? 1.0f : 0.0f;
  int32_t last = -1;
  // Returns the weight that the colour is added with.
  __device__ __forceinline__ float step(float raw, int32_t entry) {
    if (kBlend == Blend::kAlpha) {
      const float weight = alpha_step(raw, value);
      if (weight > 0.0f) last = entry;
      return weight;
    }
    value += raw;
    return raw;
  }
  __device__ __forceinline__ bool open() const { return kBlend != Blend::kAlpha || value > 0.0f; }
};

// kFixed channels, or chunk blockIdx.y of kChunk of them where it is 0.
template <Blend kBlend, int kFixed>
__global__ void __launch_bounds__(256) blend_tiles(RasterizeParams p, const Splat2D* splats) {
  constexpr int kChannels = kFixed ? kFixed : kChunk;
  __shared__ Batch<kBatch> batch;
  const Place s = place_of(p);
  const int first_channel = kFixed ? 0 : int(blockIdx.y) * kChunk;
  const int channels = kFixed ? kFixed : (p.channels - first_channel < kChunk ? p.channels - first_channel : kChunk);
  const float log2_cutoff = log2_fast(p.cutoff);
  Pixel<kBlend> pixel;
  float color[kChannels] = {};
  bool done = !s.inside;
  for (int64_t first = s.begin; first < s.end; first += kBatch) {
    if (__syncthreads_and(done)) break;  // also: nobody reads the batch any more
    const int count = int(s.end - first < kBatch ? s.end - first : kBatch);
    batch.load(p, splats, s, first, count);
    __syncthreads();
    for (int from = 0; from < count; from += kWarp) {
      for (unsigned hits = batch.hits(s, from, count); hits != 0; hits &= hits - 1) {
        const int k = from + __ffs(int(hits)) - 1;
        const float raw = splat_weight(batch.splat[k], s, log2_cutoff);
        if (done || raw == 0.0f) continue;
        const float weight = pixel.step(raw, int32_t(first - s.begin) + k);
        const float* c = p.colors + int64_t(batch.index[k]) * p.channels + first_channel;
        for (int d = 0; d < kChannels; ++d)
          if (kFixed || d < channels) color[d] += weight * c[d];
        done = !pixel.open();
      }
      if (__all_sync(kAllLanes, done)) break;
    }
  }
  if (!s.inside) return;
  const PixelFinish finish = finish_pixel<kBlend>(pixel.value);
  const float* background = p.backgrounds ? p.backgrounds + int64_t(s.camera) * p.channels + first_channel : nullptr;
  float* to = p.image + s.pixel * p.channels + first_channel;
  for (int d = 0; d < kChannels; ++d)
    if (kFixed || d < channels)
      to[d] = color[d] * finish.scale + (background ? finish.behind * background[d] : 0.0f);
  if (first_channel != 0) return;
  p.alphas[s.pixel] = finish.alpha;
  if (kBlend == Blend::kAlpha) {
    p.norm[s.pixel] = finish.behind;
    p.last[s.pixel] = pixel.last;
  }
}

// The kTop largest weights of a pixel and their entries, largest first; of equal weights the earlier entry. Branch-free and
// unrolled, so that the lists of the common K stay in registers.
template <int kTop>
struct Largest {
  static constexpr int kUnroll = kTop <= 16 ? kTop : 1;
  float weights[kTop];
  int32_t entries[kTop];

  __device__ __forceinline__ Largest() {
#pragma unroll kUnroll
    for (int k = 0; k < kTop; ++k) weights[k] = 0.0f, entries[k] = INT32_MAX;
  }
  __device__ __forceinline__ void add(float weight, int32_t entry) {
    if (!(weight > weights[kTop - 1])) return;
#pragma unroll kUnroll
    for (int k = kTop - 1; k > 0; --k) {
      const bool down = weight > weights[k - 1], here = weight > weights[k];
      entries[k] = down ? entries[k - 1] : (here ? entry : entries[k]);
      weights[k] = down ? weights[k - 1] : (here ? weight : weights[k]);
    }
    if (weight > weights[0]) weights[0] = weight, entries[0] = entry;
  }
  // Calls body(k, weight, entry) for the first `count`, largest first.
  template <class F>
  __device__ __forceinline__ void each(int count, F&& body) const {
#pragma unroll kUnroll
    for (int k = 0; k < kTop; ++k)
      if (k < count) body(k, weights[k], entries[k]);
  }
};

// kTop: K or a little more.
template <int kTop>
__global__ void __launch_bounds__(256, kTop == 16 ? 2 : 3) top_tiles(RasterizeParams p, const Splat2D* splats) {
  __shared__ Batch<kBatch> batch;
  const Place s = place_of(p);
  const float log2_cutoff = log2_fast(p.cutoff);
  Largest<kTop> largest;
  for (int64_t first = s.begin; first < s.end; first += kBatch) {
    __syncthreads();  // nobody reads the batch any more
    const int count = int(s.end - first < kBatch ? s.end - first : kBatch);
    batch.load(p, splats, s, first, count);
    __syncthreads();
    for (int from = 0; from < count; from += kWarp)
      for (unsigned hits = batch.hits(s, from, count); hits != 0; hits &= hits - 1) {
        const int k = from + __ffs(int(hits)) - 1;
        largest.add(splat_weight(batch.splat[k], s, log2_cutoff), int32_t(first - s.begin) + k);
      }
  }
  if (!s.inside) return;
  float total = 0.0f, kth = 0.0f;
  int32_t last = INT32_MAX;
  largest.each(p.topk, [&](int k, float weight, int32_t entry) {
    total += weight;
    if (k == p.topk - 1) kth = weight, last = entry;
  });
  const PixelFinish finish = finish_pixel<Blend::kTopK>(total);
  const float* background = p.backgrounds ? p.backgrounds + int64_t(s.camera) * p.channels : nullptr;
  float* to = p.image + s.pixel * p.channels;
  for (int d = 0; d < p.channels; ++d) {
    float sum = 0.0f;
    largest.each(p.topk, [&](int, float weight, int32_t entry) {
      if (weight > 0.0f) sum += weight * p.colors[int64_t(p.lists.entries[s.begin + entry]) * p.channels + d];
    });
    to[d] = sum * finish.scale + (background ? finish.behind * background[d] : 0.0f);
  }
  const int64_t plane = int64_t(p.grid.width) * p.grid.height, norm = s.pixel + s.camera * plane;  // [C, 2, H, W]
  p.alphas[s.pixel] = finish.alpha;
  p.norm[norm] = kth;
  p.norm[norm + plane] = finish.scale;
  p.last[s.pixel] = last;
}

template <Blend kBlend>
void launch(const RasterizeParams& p, const Splat2D* splats, cudaStream_t stream) {
  const unsigned tiles = unsigned(p.cameras * p.grid.tiles());
  const auto go = [&](auto kernel, unsigned chunks) {
    SPLAT_LAUNCH(kernel, dim3(tiles, chunks), dim3(kThreads), stream, p, splats);
  };
  switch (p.channels) {
    case 1: return go(blend_tiles<kBlend, 1>, 1);
    case 3: return go(blend_tiles<kBlend, 3>, 1);
    case 4: return go(blend_tiles<kBlend, 4>, 1);
    default: return go(blend_tiles<kBlend, 0>, unsigned(p.channels + kChunk - 1) / kChunk);
  }
}

void launch_top(const RasterizeParams& p, const Splat2D* splats, cudaStream_t stream) {
  const unsigned tiles = unsigned(p.cameras * p.grid.tiles());
  const auto go = [&](auto kernel) { SPLAT_LAUNCH(kernel, dim3(tiles), dim3(kThreads), stream, p, splats); };
  if (p.topk <= 4) return go(top_tiles<4>);
  if (p.topk <= 10) return go(top_tiles<10>);  // Image-GS
  if (p.topk <= 16) return go(top_tiles<16>);
  go(top_tiles<kMaxTop>);
}

}  // namespace

void blend_splats(const SplatArrays& splats, float cutoff, Splat2D* out, cudaStream_t stream) {
  if (splats.count == 0) return;
  const unsigned blocks = unsigned((splats.count + 255) / 256);
  SPLAT_LAUNCH(make_splats, dim3(blocks), dim3(256), stream, splats, cutoff, out);
}

void rasterize_forward(const RasterizeParams& p, const Splat2D* splats, cudaStream_t stream) {
  if (p.cameras == 0) return;
  switch (p.blend) {
    case Blend::kAlpha: return launch<Blend::kAlpha>(p, splats, stream);
    case Blend::kSum: return launch<Blend::kSum>(p, splats, stream);
    case Blend::kTopK: return launch_top(p, splats, stream);
  }
}

}  // namespace splat::cuda
