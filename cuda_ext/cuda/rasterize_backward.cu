// Gradients of the image. Each entry gets one record of sums over its tile's pixels, at its slot; the records of a splat
// lie together and are summed in order, without atomics: the same bits on every run. Where they would take too much memory
// the entries are added to one record for each splat instead (GradientSums).
#include "splat/records.h"

#include "kernels.h"
#include "tile.cuh"
#include "warp.cuh"

namespace splat::cuda {
namespace {

constexpr int kBatch = kWarp;  // entries whose sums a block holds at a time, one for each lane

__device__ __forceinline__ void add_atomic(float* to, float value) {
  if (value != 0.0f) atomicAdd(to, value);
}

// Values of a record that one pass over the tile makes: the moments and absolute sums, and kChunk colours.
template <int kFixed, bool kAbs>
constexpr int kPassSize = (kMoments + (kFixed ? kFixed : kChunk) + (kAbs ? 2 : 0) + 3) / 4 * 4;

// dL/dpixel and what the compositor carries backwards.
template <Blend kBlend>
struct PixelGrad {
  float T = 1.0f, behind = 0.0f, scale = 0.0f, kth = 0.0f;
  int32_t last = -1;

  __device__ __forceinline__ PixelGrad(const RasterizeParams& p, const RasterizeGrads& g, const Place& s) {
    if (!s.inside) return;
    const float* v = g.v_image ? g.v_image + s.pixel * p.channels : nullptr;
    const float v_alpha = g.v_alphas ? g.v_alphas[s.pixel] : 0.0f;
    float v_background = 0.0f, v_image = 0.0f;
    PixelFinish finish{};
    if (kBlend == Blend::kAlpha) {
      const float* background = p.backgrounds ? p.backgrounds + int64_t(s.camera) * p.channels : nullptr;
      if (v && background)
        for (int d = 0; d < p.channels; ++d) v_background += v[d] * background[d];
      T = finish.behind = p.norm[s.pixel];
      last = p.last[s.pixel];
    } else if (kBlend == Blend::kTopK) {
      if (v)
        for (int d = 0; d < p.channels; ++d) v_image += v[d] * p.image[s.pixel * p.channels + d];
      const int64_t plane = int64_t(p.grid.width) * p.grid.height, norm = s.pixel + s.camera * plane;
      kth = p.norm[norm];
      scale = finish.scale = p.norm[norm + plane];
      finish.behind = kTopKEpsilon * finish.scale;
      last = p.last[s.pixel];
    } else {
      last = INT32_MAX;
      scale = 1.0f;
    }
    behind = finish_vjp<kBlend>(finish, v_alpha, v_background, v_image);
  }
  // At the end of a part, from the end of the tile: what the later parts drew lies behind it.
  __device__ __forceinline__ void enter(const RasterizeParams& p, const RasterizeGrads& g, const Place& s,
                                        const Work& work, const Part& part) {
    if (kBlend != Blend::kAlpha || part.parts == 1 || !s.inside) return;
    const PartPictures pictures(work, part, p.channels);
    const int used = pictures.used(part.parts);
    if (part.part >= used) return;  // none of its entries was drawn
    T = fabsf(pictures.value(part.part));
    for (int j = part.part + 1; g.v_image && j < used; ++j)
      for (int d = 0; d < p.channels; ++d) behind += g.v_image[s.pixel * p.channels + d] * pictures.color(j, d);
  }
  // raw where the forward pass drew the entry, else 0.
  __device__ __forceinline__ float drawn(float raw, int32_t entry) const {
    if (kBlend == Blend::kTopK) return raw > kth || (raw == kth && entry <= last) ? raw : 0.0f;
    return entry <= last ? raw : 0.0f;
  }
};

// kFixed channels, or chunk blockIdx.y of kChunk of them where it is 0. The moments are made by the first chunk alone.
template <Blend kBlend, int kFixed, bool kAbs>
__global__ void __launch_bounds__(256, kFixed ? kBackwardBlocks : 4)
    tile_vjp(RasterizeParams p, RasterizeGrads g, const Splat2D* splats, GradientSums out, Work work) {
  constexpr int kColors = kFixed ? kFixed : kChunk, kSize = kPassSize<kFixed, kAbs>;
  __shared__ Batch<kBatch, kFixed> batch;
  __shared__ float sums[kWarps][kBatch][kSize];
  __shared__ unsigned summed[kWarps];  // bit k: the warp has sums of entry k of the batch
  const Part part = part_of(work);
  if (part.tile < 0) return;
  const Place s = place_of(p, part, work.longest);
  const int first_channel = kFixed ? 0 : int(blockIdx.y) * kChunk;
  const int channels = kFixed ? kFixed : (p.channels - first_channel < kChunk ? p.channels - first_channel : kChunk);
  const int size = record_size(p.channels, kAbs);
  const float log2_cutoff = log2_fast(p.cutoff);
  PixelGrad<kBlend> pixel(p, g, s);
  pixel.enter(p, g, s, work, part);
  const int32_t reach = kBlend == Blend::kAlpha ? largest(pixel.last) : INT32_MAX;  // the warp's last entry drawn
  const float* v_pixel = g.v_image && s.inside ? g.v_image + s.pixel * p.channels : nullptr;
  float v_color[kColors] = {};
  for (int d = 0; d < kColors; ++d)
    if (v_pixel && d < channels) v_color[d] = v_pixel[first_channel + d];

  for (int32_t end = s.end; end > s.begin;) {  // batches from the last to the first, as alpha_step_vjp goes
    const int32_t first = s.begin + (end - 1 - s.begin) / kBatch * kBatch;
    const int count = end - first;
    end = first;
    batch.load(p, splats, s, first, count);
    __syncthreads();
    const int32_t base = first - s.list, over = reach - base;
    unsigned hits = batch.hits(s, 0, count), done = 0;
    hits &= over < 0 ? 0u : (over >= 31 ? ~0u : (2u << over) - 1u);
    while (hits != 0) {
      const int k = 31 - __clz(int(hits));
      hits ^= 1u << k;
      const LocalSplat& splat = batch.item[k].splat;
      const float* c = batch.colors(p, k, 0);
      const float raw = pixel.drawn(splat_weight(splat, s, log2_cutoff), base + k);
      if (!__any_sync(kAllLanes, raw != 0.0f)) continue;
      float vc = kBlend == Blend::kAlpha ? 0.0f : pixel.behind;
      if (kFixed) {
        for (int d = 0; d < kColors; ++d) vc += v_color[d] * c[d];
      } else if (v_pixel) {
        for (int d = 0; d < p.channels; ++d) vc += v_pixel[d] * c[d];
      }
      float weight = raw * pixel.scale, grad;
      if (kBlend == Blend::kAlpha)
        grad = alpha_step_vjp(raw, vc, pixel.T, pixel.behind, weight);
      else
        grad = order_free_vjp(weight, vc);
      const PixelShare<float> share = pixel_share(splat, s.px, s.py, grad);
      float values[kSize] = {};
      for (int m = 0; m < kMoments; ++m) values[m] = share.moments[m];
      for (int d = 0; d < kColors; ++d) values[kMoments + d] = weight * v_color[d];
      if (kAbs)
        for (int a = 0; a < 2; ++a) values[kMoments + kColors + a] = share.absolutes[a];
      done |= 1u << k;
      for (int i = 0; i < kSize; i += 4) {
        const float total = sum4(values + i, s.lane);
        if ((s.lane & 7) == 0) sums[s.warp][k][i + (s.lane >> 3)] = total;
      }
    }
    if (s.lane == 0) summed[s.warp] = done;
    __syncthreads();
    for (int at = int(threadIdx.x); at < count * kSize; at += kThreads) {  // the warps' sums, in their order
      const int k = at / kSize, i = at % kSize;
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w)
        if (summed[w] >> k & 1u) total += sums[w][k][i];
      float* record = out.values + int64_t((out.by_splat ? p.lists.entries : p.lists.slots)[first + k]) * size;
      const auto put = [&](int at) { out.by_splat ? add_atomic(record + at, total) : void(record[at] = total); };
      const int color = i - kMoments, abs = color - kColors;
      if (color < 0) {
        if (first_channel == 0) put(i);
      } else if (color < kColors) {
        if (color < channels) put(kMoments + first_channel + color);
      } else if (kAbs && abs < 2 && first_channel == 0) {
        put(kMoments + p.channels + abs);
      }
    }
    // The next batch may be loaded now: what is read here is overwritten only after the barrier that follows it.
  }
}

constexpr int kFewRecords = 64;  // a splat with more of them is shared by its warp

// Sums a splat's records and turns the moments into gradients. kFixed channels, or any number of them where it is 0.
template <int kFixed, bool kAbs>
__global__ void __launch_bounds__(256, 4) sum_records(RasterizeParams p, RasterizeGrads g, const Splat2D* splats,
                                                   GradientSums sums) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool mine = i < p.splats.count;
  int32_t from = mine && !sums.by_splat ? int32_t(p.lists.splat_offsets[i]) : int32_t(i);
  int32_t to = mine ? (sums.by_splat ? int32_t(i) + 1 : int32_t(p.lists.splat_offsets[i + 1])) : from;
  const int size = kFixed ? kMoments + kFixed + (kAbs ? 2 : 0) : record_size(p.channels, kAbs);
  if constexpr (kFixed > 0) {
    float total[kMoments + kFixed + (kAbs ? 2 : 0)] = {};
    const auto add = [&](int32_t at) {
      for (int k = 0; k < size; ++k) total[k] += sums.values[int64_t(at) * size + k];
    };
    unsigned shared = __ballot_sync(kAllLanes, to - from > kFewRecords);
    const bool own = to - from <= kFewRecords;
    for (int32_t at = from; own && at < to; ++at) add(at);
    float kept[kMoments + kFixed + (kAbs ? 2 : 0)];
    for (int k = 0; k < size; ++k) kept[k] = total[k];
    const int lane = int(threadIdx.x) % kWarp;
    for (; shared != 0; shared &= shared - 1) {
      const int owner = __ffs(int(shared)) - 1;
      const int32_t begin = __shfl_sync(kAllLanes, from, owner), end = __shfl_sync(kAllLanes, to, owner);
      for (int k = 0; k < size; ++k) total[k] = 0.0f;
      for (int32_t at = begin + lane; at < end; at += kWarp) add(at);
      for (int k = 0; k < size; ++k) {
        float sum = total[k];
        for (int distance = kWarp / 2; distance > 0; distance /= 2) sum = fold(sum, distance);
        if (lane == owner) kept[k] = sum;
      }
    }
    if (mine) write_splat_gradients(p, g, splats, i, kFixed, [&](int k) { return kept[k]; });
  } else if (mine) {
    write_splat_gradients(p, g, splats, i, p.channels, [&](int k) {
      float sum = 0.0f;
      for (int32_t at = from; at < to; ++at) sum += sums.values[int64_t(at) * size + k];
      return sum;
    });
  }
}

template <Blend kBlend, bool kAbs>
void launch(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const GradientSums& sums,
            const Work& work, cudaStream_t stream) {
  if (work.split() && kBlend == Blend::kAlpha) part_pictures(p, splats, work, stream);
  const auto go = [&](auto kernel, unsigned chunks) {
    SPLAT_LAUNCH(kernel, dim3(unsigned(work.count), chunks), dim3(kThreads), stream, p, g, splats, sums, work);
  };
  if (sums.by_splat)
    cudaMemsetAsync(sums.values, 0, sizeof(float) * size_t(p.splats.count) * record_size(p.channels, kAbs), stream);
  if (work.count > 0 && p.lists.count > 0) {
    switch (p.channels) {
      case 1: go(tile_vjp<kBlend, 1, kAbs>, 1); break;
      case 3: go(tile_vjp<kBlend, 3, kAbs>, 1); break;
      case 4: go(tile_vjp<kBlend, 4, kAbs>, 1); break;
      default: go(tile_vjp<kBlend, 0, kAbs>, unsigned(p.channels + kChunk - 1) / kChunk);
    }
  }
  if (p.splats.count == 0) return;
  const auto add = [&](auto kernel) {
    const unsigned blocks = unsigned((p.splats.count + 255) / 256);
    SPLAT_LAUNCH(kernel, dim3(blocks), dim3(256), stream, p, g, splats, sums);
  };
  switch (p.channels) {
    case 1: return add(sum_records<1, kAbs>);
    case 3: return add(sum_records<3, kAbs>);
    case 4: return add(sum_records<4, kAbs>);
    default: return add(sum_records<0, kAbs>);
  }
}

template <Blend kBlend>
void launch(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const GradientSums& sums,
            const Work& work, cudaStream_t stream) {
  g.v_means2d_abs ? launch<kBlend, true>(p, g, splats, sums, work, stream)
                  : launch<kBlend, false>(p, g, splats, sums, work, stream);
}

}  // namespace

void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats,
                        const GradientSums& sums, const Work& work, cudaStream_t stream) {
  switch (p.blend) {
    case Blend::kAlpha: return launch<Blend::kAlpha>(p, g, splats, sums, work, stream);
    case Blend::kSum: return launch<Blend::kSum>(p, g, splats, sums, work, stream);
    case Blend::kTopK: return launch<Blend::kTopK>(p, g, splats, sums, work, stream);
  }
}

}  // namespace splat::cuda
