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

// Calls body(k, weight, entry) for the entries that have a weight at the thread's pixel until that is done: k in the
// batch, entry counted from the tile's first. Every thread of the block calls it.
template <int kColors, class Body>
__device__ __forceinline__ void walk(const RasterizeParams& p, const Splat2D* splats, const Place& s,
                                     Batch<kBatch, kColors>& batch, bool& done, Body&& body) {
  float cut = done ? INFINITY : log2_fast(p.cutoff);  // of a pixel that is done: nothing has a weight
  for (int32_t first = s.begin; first < s.end; first += kBatch) {
    if (__syncthreads_and(done)) break;  // also: nobody reads the batch any more
    const int count = s.end - first < kBatch ? s.end - first : kBatch;
    batch.load(p, splats, s, first, count);
    __syncthreads();
    const Item<kColors>* item = batch.item;  // a pointer of its own: else its base is made again at every visit
    for (int from = 0; from < count; from += kWarp, item += kWarp) {
      for (unsigned hits = batch.hits(s, from, count); hits != 0; hits &= hits - 1) {
        const int bit = __ffs(int(hits)) - 1, k = from + bit;
        const float raw = splat_weight(item[bit].splat, s, cut);
        if (raw == 0.0f) continue;
        body(k, raw, first - s.list + k);
        if (done) cut = INFINITY;
      }
      if (__all_sync(kAllLanes, done)) break;
    }
  }
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
  // What the parts before this one let through.
  __device__ __forceinline__ void enter(const Work& work, const Part& part) {
    if constexpr (kBlend == Blend::kAlpha) {
      const float* through = work.through + int64_t(part.slot - part.part) * kThreads + threadIdx.x;
      for (int j = 0; j < part.part; ++j) value *= through[j * kThreads];
      if (value <= kTransmittanceMin) value = -value;  // stopped in one of them
    }
  }
};

// sum: of the weighted colours of channel d.
__device__ __forceinline__ void write_color(const RasterizeParams& p, const Place& s, const PixelFinish& finish, int d,
                                            float sum) {
  const float behind = p.backgrounds ? finish.behind * p.backgrounds[int64_t(s.camera) * p.channels + d] : 0.0f;
  p.image[s.pixel * p.channels + d] = sum * finish.scale + behind;
}
template <Blend kBlend>
__device__ __forceinline__ void write_alpha(const RasterizeParams& p, const Place& s, const PixelFinish& finish,
                                            int32_t last) {
  p.alphas[s.pixel] = finish.alpha;
  if (kBlend != Blend::kAlpha) return;
  p.norm[s.pixel] = finish.behind;
  p.last[s.pixel] = last;
}

// kFixed channels, or chunk blockIdx.y of kChunk of them where it is 0. alone: parts of split tiles only.
template <Blend kBlend, int kFixed>
__global__ void __launch_bounds__(256, kFixed ? 5 : 4)
    blend_tiles(RasterizeParams p, const Splat2D* splats, Work work, bool alone) {
  constexpr int kChannels = kFixed ? kFixed : kChunk;
  __shared__ Batch<kBatch, kFixed> batch;
  const Part part = part_of(work);
  if (part.tile < 0 || (alone && part.parts == 1)) return;
  const Place s = place_of(p, part, work.longest);
  const int first_channel = kFixed ? 0 : int(blockIdx.y) * kChunk;
  const int channels = kFixed ? kFixed : (p.channels - first_channel < kChunk ? p.channels - first_channel : kChunk);
  Pixel<kBlend> pixel;
  pixel.enter(work, part);
  float color[kChannels] = {};
  bool done = !s.inside || !pixel.open();
  walk(p, splats, s, batch, done, [&](int k, float raw, int32_t entry) {
    const float weight = pixel.step(raw, entry);
    const float* c = batch.colors(p, k, first_channel);
    for (int d = 0; d < kChannels; ++d)
      if (kFixed || d < channels) color[d] += weight * c[d];
    done = !pixel.open();
  });
  if (part.parts > 1) {
    float* to = work.pictures + part.slot * picture_size(p.channels) + threadIdx.x;
    for (int d = 0; d < kChannels; ++d)
      if (kFixed || d < channels) to[(first_channel + d) * kThreads] = color[d];
    if (first_channel != 0) return;
    to[p.channels * kThreads] = pixel.value;
    to[(p.channels + 1) * kThreads] = __int_as_float(pixel.last);
    return;
  }
  if (!s.inside) return;
  const PixelFinish finish = finish_pixel<kBlend>(pixel.value);
  for (int d = 0; d < kChannels; ++d)
    if (kFixed || d < channels) write_color(p, s, finish, first_channel + d, color[d]);
  if (first_channel == 0) write_alpha<kBlend>(p, s, finish, pixel.last);
}

// What each part of a split tile but the last lets through, were it alone.
__global__ void __launch_bounds__(256) parts_through(RasterizeParams p, const Splat2D* splats, Work work) {
  __shared__ Batch<kBatch, 0> batch;
  const Part part = part_of(work);
  if (part.tile < 0 || part.part + 1 >= part.parts) return;
  const Place s = place_of(p, part, work.longest);
  float T = 1.0f;
  bool done = !s.inside;
  walk(p, splats, s, batch, done, [&](int, float raw, int32_t) {
    T -= alpha_weight(raw, T);
    done = T <= kTransmittanceMin;  // whatever is before it: the pixel stops here or earlier
  });
  work.through[int64_t(part.slot) * kThreads + threadIdx.x] = T;
}

// A split tile's picture from those of its parts, by the block of the first.
template <Blend kBlend>
__global__ void __launch_bounds__(256) join_parts(RasterizeParams p, Work work) {
  const Part part = part_of(work);
  if (part.tile < 0 || part.part != 0 || part.parts == 1) return;
  const Place s = place_of(p, part, work.longest);
  if (!s.inside) return;
  const PartPictures pictures(work, part, p.channels);
  const int used = kBlend == Blend::kAlpha ? pictures.used(part.parts) : part.parts;
  float value = kBlend == Blend::kAlpha ? pictures.value(used - 1) : 0.0f;
  int32_t last = -1;
  for (int j = 0; j < used; ++j) {
    if (kBlend != Blend::kAlpha) value += pictures.value(j);
    last = pictures.last(j) > last ? pictures.last(j) : last;
  }
  const PixelFinish finish = finish_pixel<kBlend>(value);
  for (int d = 0; d < p.channels; ++d) {
    float sum = 0.0f;
    for (int j = 0; j < used; ++j) sum += pictures.color(j, d);
    write_color(p, s, finish, d, sum);
  }
  write_alpha<kBlend>(p, s, finish, last);
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
__global__ void __launch_bounds__(256, kTop == 10 || kTop == 16 ? 2 : 4)
    top_tiles(RasterizeParams p, const Splat2D* splats, Work work) {
  __shared__ Batch<kBatch, 0> batch;
  const Part part = part_of(work);
  const Place s = place_of(p, part, work.longest);
  Largest<kTop> largest;
  bool done = !s.inside;
  walk(p, splats, s, batch, done, [&](int, float raw, int32_t entry) { largest.add(raw, entry); });
  if (!s.inside) return;
  float total = 0.0f, kth = 0.0f;
  int32_t last = INT32_MAX;
  largest.each(p.topk, [&](int k, float weight, int32_t entry) {
    total += weight;
    if (k == p.topk - 1) kth = weight, last = entry;
  });
  const PixelFinish finish = finish_pixel<Blend::kTopK>(total);
  for (int d = 0; d < p.channels; ++d) {
    float sum = 0.0f;
    largest.each(p.topk, [&](int, float weight, int32_t entry) {
      if (weight > 0.0f) sum += weight * p.colors[int64_t(p.lists.entries[s.list + entry]) * p.channels + d];
    });
    write_color(p, s, finish, d, sum);
  }
  const int64_t plane = int64_t(p.grid.width) * p.grid.height, norm = s.pixel + s.camera * plane;  // [C, 2, H, W]
  p.alphas[s.pixel] = finish.alpha;
  p.norm[norm] = kth;
  p.norm[norm + plane] = finish.scale;
  p.last[s.pixel] = last;
}

template <Blend kBlend>
void launch(const RasterizeParams& p, const Splat2D* splats, const Work& work, bool alone, cudaStream_t stream) {
  if (work.split() && kBlend == Blend::kAlpha)
    SPLAT_LAUNCH(parts_through, dim3(unsigned(work.count)), dim3(kThreads), stream, p, splats, work);
  const auto go = [&](auto kernel, unsigned chunks) {
    SPLAT_LAUNCH(kernel, dim3(unsigned(work.count), chunks), dim3(kThreads), stream, p, splats, work, alone);
  };
  switch (p.channels) {
    case 1: return go(blend_tiles<kBlend, 1>, 1);
    case 3: return go(blend_tiles<kBlend, 3>, 1);
    case 4: return go(blend_tiles<kBlend, 4>, 1);
    default: return go(blend_tiles<kBlend, 0>, unsigned(p.channels + kChunk - 1) / kChunk);
  }
}

template <Blend kBlend>
void draw(const RasterizeParams& p, const Splat2D* splats, const Work& work, cudaStream_t stream) {
  launch<kBlend>(p, splats, work, false, stream);
  if (work.split())
    SPLAT_LAUNCH(join_parts<kBlend>, dim3(unsigned(work.count)), dim3(kThreads), stream, p, work);
}

void draw_top(const RasterizeParams& p, const Splat2D* splats, const Work& work, cudaStream_t stream) {
  const auto go = [&](auto kernel) {
    SPLAT_LAUNCH(kernel, dim3(unsigned(work.count)), dim3(kThreads), stream, p, splats, work);
  };
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

void part_pictures(const RasterizeParams& p, const Splat2D* splats, const Work& work, cudaStream_t stream) {
  launch<Blend::kAlpha>(p, splats, work, true, stream);
}

void rasterize_forward(const RasterizeParams& p, const Splat2D* splats, const Work& work, cudaStream_t stream) {
  if (p.cameras == 0) return;
  switch (p.blend) {
    case Blend::kAlpha: return draw<Blend::kAlpha>(p, splats, work, stream);
    case Blend::kSum: return draw<Blend::kSum>(p, splats, work, stream);
    case Blend::kTopK: return draw_top(p, splats, work, stream);
  }
}

}  // namespace splat::cuda
