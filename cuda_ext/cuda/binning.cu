// Tile lists: which splats touch which 4x4 blocks of which tiles, in drawing order. Stable sorts throughout: the same lists
// on every run, and the same as the CPU's. CUB only here.
//
// First version: the number of entries is read back once, to size what follows.
#include "binning.h"

#include "cub.h"
#include "launch.h"
#include "splat/touch.h"

namespace splat::cuda {
namespace {

constexpr int kThreads = 256;
unsigned blocks_for(int64_t count) { return unsigned((count + kThreads - 1) / kThreads); }

__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

// Calls body(tile of the image, mask) for the tiles that an ellipse touches, row-major.
template <class F>
__device__ __forceinline__ void for_tiles(const Ellipse& e, const TileGrid& grid, F&& body) {
  const int32_t blocks_x = (grid.width + 3) / 4, bands = (grid.height + 3) / 4;
  const TileRows rows = tile_rows(e, grid);
  for (int32_t row = rows.first; row <= rows.last; ++row) {
    int32_t first[kBands], last[kBands];
    for (int r = 0; r < kBands; ++r) {
      const int32_t band = row * kBands + r;
      const BandBlocks<float> b = band_blocks(e, float(band), blocks_x);
      const int32_t a = int32_t(ceilf(b.first));
      first[r] = a < 0 ? 0 : a;
      last[r] = b.y0 < b.y1 && band < bands ? int32_t(floorf(b.last)) : -1;
    }
    for_tiles_of_row(first, last,
                     [&](int32_t column, uint32_t mask) { body(row * grid.tiles_x() + column, mask); });
  }
}

// counts [S + 1], the last one 0, so that an exclusive sum ends with the total.
__global__ void __launch_bounds__(256) count_tiles(SplatArrays splats, TileGrid grid, float cutoff, int64_t* counts) {
  const int64_t i = thread_index();
  if (i > splats.count) return;
  int64_t count = 0;
  if (i < splats.count)
    for_tiles(make_ellipse(splats, i, log2_fast(cutoff)), grid, [&](int32_t, uint32_t) { ++count; });
  counts[i] = count;
}

// Sort keys: camera, then depth (floats as unsigned integers in the same order). values: the splats in the order of `ids`.
__global__ void __launch_bounds__(256) depth_keys(const float* depths, const int64_t* by_id, int64_t count,
                                                  int64_t per_camera, uint64_t* keys, int32_t* values) {
  const int64_t k = thread_index();
  if (k >= count) return;
  const int64_t camera = k / per_camera;
  const int64_t i = camera * per_camera + (by_id ? by_id[k % per_camera] : k % per_camera);
  uint32_t bits;
  memcpy(&bits, depths + i, sizeof bits);
  bits = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  keys[k] = uint64_t(camera) << 32 | bits;
  values[k] = int32_t(i);
}

// Ids as unsigned integers in the same order, and the index of each.
__global__ void __launch_bounds__(256) id_keys(const int64_t* ids, int64_t count, uint64_t* keys, int64_t* values) {
  const int64_t i = thread_index();
  if (i >= count) return;
  keys[i] = uint64_t(ids[i]) ^ (uint64_t{1} << 63);
  values[i] = i;
}

__global__ void __launch_bounds__(256) count_in_order(const int64_t* splat_offsets, const int32_t* order, int64_t count,
                                                      int64_t* counts) {
  const int64_t k = thread_index();
  if (k > count) return;
  const int64_t i = k < count ? (order ? order[k] : k) : 0;
  counts[k] = k < count ? splat_offsets[i + 1] - splat_offsets[i] : 0;
}

// A touch of a splat and a tile, by slot.
struct Touch {
  int32_t splat, mask;
};

// In drawing order: the tile of each touch (of all images) and its slot; by slot: the touch itself.
__global__ void __launch_bounds__(256) emit(SplatArrays splats, TileGrid grid, float cutoff, int64_t per_camera,
                                            const int64_t* splat_offsets, const int32_t* order,
                                            const int64_t* order_offsets, uint32_t* tiles, int32_t* slots,
                                            Touch* touches) {
  const int64_t k = thread_index();
  if (k >= splats.count) return;
  const int64_t i = order ? order[k] : k;
  const uint32_t first_tile = uint32_t(i / per_camera * grid.tiles());
  int64_t to = order_offsets[k], slot = splat_offsets[i];
  for_tiles(make_ellipse(splats, i, log2_fast(cutoff)), grid, [&](int32_t tile, uint32_t mask) {
    tiles[to] = first_tile + uint32_t(tile);
    slots[to++] = int32_t(slot);
    touches[slot++] = {int32_t(i), int32_t(mask)};
  });
}

__global__ void __launch_bounds__(256) fill_entries(const Touch* touches, const int32_t* slots, int64_t count,
                                                    int32_t* entries, int16_t* masks) {
  const int64_t at = thread_index();
  if (at >= count) return;
  const Touch touch = touches[slots[at]];
  entries[at] = touch.splat;
  masks[at] = int16_t(uint16_t(touch.mask));
}

// Where each tile's entries begin in the sorted keys; tile `tiles` is the end.
__global__ void __launch_bounds__(256) find_tiles(const uint32_t* keys, int64_t count, int64_t tiles, int64_t* offsets) {
  const int64_t t = thread_index();
  if (t > tiles) return;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (int64_t(keys[middle]) < t)
      low = middle + 1;
    else
      high = middle;
  }
  offsets[t] = low;
}

void exclusive_sum(const Arena& arena, const int64_t* in, int64_t* out, int64_t count, cudaStream_t stream) {
  size_t bytes = 0;
  cub::DeviceScan::ExclusiveSum(nullptr, bytes, in, out, count, stream);
  cub::DeviceScan::ExclusiveSum(arena.take(bytes), bytes, in, out, count, stream);
}
template <class Key, class Value>
void sort_pairs(const Arena& arena, Key*& keys, Value*& values, int64_t count, int bits, cudaStream_t stream) {
  Key* keys_out = arena.take_array<Key>(count);
  Value* values_out = arena.take_array<Value>(count);
  size_t bytes = 0;
  cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, keys_out, values, values_out, count, 0, bits, stream);
  cub::DeviceRadixSort::SortPairs(arena.take(bytes), bytes, keys, keys_out, values, values_out, count, 0, bits, stream);
  keys = keys_out;
  values = values_out;
}

int bits_for(uint64_t largest) {
  int bits = 1;
  while (bits < 64 && largest >> bits) ++bits;
  return bits;
}

}  // namespace

int64_t bin_count(const BinParams& p, const Arena& arena, int64_t* splat_offsets, cudaStream_t stream) {
  const int64_t count = p.splats.count;
  int64_t* counts = arena.take_array<int64_t>(count + 1);
  SPLAT_LAUNCH(count_tiles, dim3(blocks_for(count + 1)), dim3(kThreads), stream, p.splats, p.grid, p.cutoff, counts);
  exclusive_sum(arena, counts, splat_offsets, count + 1, stream);
  int64_t total = 0;
  cudaMemcpyAsync(&total, splat_offsets + count, sizeof total, cudaMemcpyDeviceToHost, stream);
  return cudaStreamSynchronize(stream) == cudaSuccess ? total : -1;
}

void bin_fill(const BinParams& p, const Arena& arena, const int64_t* splat_offsets, int64_t total, const BinLists& out,
              cudaStream_t stream) {
  const int64_t count = p.splats.count, tiles = p.cameras * p.grid.tiles();
  const int64_t per_camera = p.cameras > 0 ? count / p.cameras : 0;
  int32_t* order = nullptr;  // by index
  if (p.depths != nullptr && count > 0) {
    int64_t* by_id = nullptr;
    if (p.ids != nullptr) {
      uint64_t* id = arena.take_array<uint64_t>(per_camera);
      by_id = arena.take_array<int64_t>(per_camera);
      SPLAT_LAUNCH(id_keys, dim3(blocks_for(per_camera)), dim3(kThreads), stream, p.ids, per_camera, id, by_id);
      sort_pairs(arena, id, by_id, per_camera, 64, stream);
    }
    uint64_t* keys = arena.take_array<uint64_t>(count);
    order = arena.take_array<int32_t>(count);
    SPLAT_LAUNCH(depth_keys, dim3(blocks_for(count)), dim3(kThreads), stream, p.depths,
                 static_cast<const int64_t*>(by_id), count, per_camera, keys, order);
    sort_pairs(arena, keys, order, count, 32 + bits_for(uint64_t(p.cameras)), stream);
  }
  uint32_t* keys = arena.take_array<uint32_t>(total);
  int32_t* slots = arena.take_array<int32_t>(total);
  if (total > 0) {
    int64_t* counts = arena.take_array<int64_t>(count + 1);
    int64_t* order_offsets = arena.take_array<int64_t>(count + 1);
    Touch* touches = arena.take_array<Touch>(total);
    SPLAT_LAUNCH(count_in_order, dim3(blocks_for(count + 1)), dim3(kThreads), stream, splat_offsets,
                 static_cast<const int32_t*>(order), count, counts);
    exclusive_sum(arena, counts, order_offsets, count + 1, stream);
    SPLAT_LAUNCH(emit, dim3(blocks_for(count)), dim3(kThreads), stream, p.splats, p.grid, p.cutoff, per_camera,
                 splat_offsets, static_cast<const int32_t*>(order), static_cast<const int64_t*>(order_offsets), keys,
                 slots, touches);
    sort_pairs(arena, keys, slots, total, bits_for(uint64_t(tiles)), stream);
    SPLAT_LAUNCH(fill_entries, dim3(blocks_for(total)), dim3(kThreads), stream, static_cast<const Touch*>(touches),
                 static_cast<const int32_t*>(slots), total, out.entries, out.masks);
    cudaMemcpyAsync(out.slots, slots, sizeof(int32_t) * total, cudaMemcpyDeviceToDevice, stream);
  }
  SPLAT_LAUNCH(find_tiles, dim3(blocks_for(tiles + 1)), dim3(kThreads), stream, static_cast<const uint32_t*>(keys), total,
               tiles, out.tile_offsets);
}

}  // namespace splat::cuda
