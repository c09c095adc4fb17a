// Tile lists: which splats touch which 4x4 blocks of which tiles, in drawing order. Visible splats are compacted, sorted by
// depth, emit a key for each tile that they touch, and the keys are sorted by tile. Stable throughout: the same lists on
// every run, and the CPU's but for splats that touch a tile within rounding. Sorts take the room of the lists as their
// length, and what is beyond the last entry has the highest key.
//
// count_tiles and emit compute the same tiles and must agree to the bit: this file is compiled without fused operations.
#include "binning.h"

#include "emit.cuh"
#include "launch.h"
#include "sort.h"

namespace splat::cuda {
namespace {

constexpr int kThreads = 256;
unsigned blocks_for(int64_t count) { return unsigned((count + kThreads - 1) / kThreads); }
__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

// counts [S + 1], the last one 0, so that an exclusive sum ends with the total.
__global__ void __launch_bounds__(256) count_tiles(SplatArrays splats, TileGrid grid, float cutoff, int64_t* counts) {
  const int64_t i = thread_index();
  const bool drawn = i < splats.count && finite_colors(splats, i);
  const Ellipse e = drawn ? make_ellipse(splats, i, log2_fast(cutoff)) : nothing();
  const int64_t count = for_warp_tiles(e, grid, 0, [](int, int64_t, int32_t, uint32_t) {});
  if (i <= splats.count) counts[i] = count;
}

// Ids as unsigned integers in the same order, and the index of each.
__global__ void __launch_bounds__(256) id_keys(const int64_t* ids, int64_t count, uint64_t* keys, int64_t* values) {
  const int64_t i = thread_index();
  if (i >= count) return;
  keys[i] = uint64_t(ids[i]) ^ (uint64_t{1} << 63);
  values[i] = i;
}

// The splats in index order, or per camera in the order of the ids.
struct Sequence {
  const int64_t* by_id;
  int64_t per_camera;
  __device__ __forceinline__ int64_t operator[](int64_t k) const {
    return by_id ? k / per_camera * per_camera + by_id[k % per_camera] : k;
  }
};

// flags [S + 1], the last one 0.
__global__ void __launch_bounds__(256) flag_visible(const int64_t* splat_offsets, int64_t count, Sequence sequence,
                                                    int32_t* flags) {
  const int64_t k = thread_index();
  if (k > count) return;
  const int64_t i = k < count ? sequence[k] : 0;
  flags[k] = k < count && splat_offsets[i + 1] > splat_offsets[i];
}

__global__ void write_totals(const int64_t* splat_offsets, const int32_t* places, int64_t count, BinSizes* totals) {
  *totals = {splat_offsets[count], places[count]};
}

// What is listed: the totals, or nothing where they exceed the room.
__global__ void __launch_bounds__(256) fit_totals(const BinSizes* totals, BinSizes room, int64_t count,
                                                  BinSizes* listed, int64_t* splat_offsets) {
  const bool fits = totals->entries <= room.entries && totals->visible <= room.visible;
  if (thread_index() == 0) *listed = fits ? *totals : BinSizes{0, 0};
  if (fits) return;
  for (int64_t i = thread_index(); i <= count; i += int64_t(gridDim.x) * kThreads) splat_offsets[i] = 0;
}

// A float as an unsigned integer in the same order.
__device__ __forceinline__ uint32_t ordered_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

// The visible splats in sequence and, unless depths are null, the keys of their depths, padded up to the room. One sort
// serves all cameras: the sort by tile, which follows, tells them apart.
__global__ void __launch_bounds__(256) list_visible(const float* depths, int64_t count, Sequence sequence,
                                                    const int32_t* places, const BinSizes* listed, int64_t room,
                                                    uint32_t* keys, int32_t* order) {
  const int64_t k = thread_index(), visible = listed->visible;
  if (k >= visible && k < room) {
    if (depths) keys[k] = 0xffffffffu;
    order[k] = 0;
  }
  if (k >= count || visible == 0 || places[k + 1] == places[k]) return;
  const int64_t i = sequence[k], at = places[k];
  if (depths) keys[at] = ordered_bits(depths[i]);
  order[at] = int32_t(i);
}

// counts [room + 1] of the splats in drawing order, 0 beyond the last.
__global__ void __launch_bounds__(256) count_in_order(const int64_t* splat_offsets, const int32_t* order,
                                                      const BinSizes* listed, int64_t room, int64_t* counts) {
  const int64_t k = thread_index();
  if (k > room) return;
  const int64_t i = k < listed->visible ? order[k] : -1;
  counts[k] = i >= 0 ? splat_offsets[i + 1] - splat_offsets[i] : 0;
}

// A touch of a splat and a tile, by slot.
struct Touch {
  int32_t splat, mask;
};

// Where a splat's touches go.
struct EmitTarget {
  int64_t in_order, slot;
  uint32_t first_tile;  // of its image
  int32_t splat;
};

// In drawing order: the tile of each touch (of all images) and its slot; by slot: the touch itself. order_offsets null:
// drawn by index, where both orders are one.
template <class Key>
__global__ void __launch_bounds__(256) emit(SplatArrays splats, TileGrid grid, float cutoff, int64_t per_camera,
                                            const int64_t* splat_offsets, const int32_t* order,
                                            const int64_t* order_offsets, const BinSizes* listed, Key* tiles,
                                            int32_t* slots, Touch* touches) {
  const int64_t k = thread_index();
  const bool mine = k < listed->visible;
  EmitTarget target{};
  if (mine) {
    target.splat = order[k];
    target.slot = splat_offsets[target.splat];
    target.in_order = order_offsets ? order_offsets[k] : target.slot;
    target.first_tile = uint32_t(target.splat / per_camera * grid.tiles());
  }
  const Ellipse e = mine ? make_ellipse(splats, target.splat, log2_fast(cutoff)) : nothing();
  for_warp_tiles(e, grid, target, [=](const EmitTarget& t, int64_t before, int32_t tile, uint32_t mask) {
    tiles[t.in_order + before] = Key(t.first_tile + uint32_t(tile));
    slots[t.in_order + before] = int32_t(t.slot + before);
    touches[t.slot + before] = {t.splat, int32_t(mask)};
  });
}

__global__ void __launch_bounds__(256) fill_entries(const Touch* touches, const int32_t* sorted,
                                                    const BinSizes* listed, BinLists out) {
  const int64_t at = thread_index();
  if (at >= out.room.entries) return;
  const bool used = at < listed->entries;
  const int32_t slot = used ? sorted[at] : -1;
  const Touch touch = used ? touches[slot] : Touch{-1, 0};
  out.entries[at] = touch.splat;
  out.masks[at] = int16_t(uint16_t(touch.mask));
  out.slots[at] = slot;
}

// Where each tile's entries begin in the sorted keys; tile `tiles` is the end.
template <class Key>
__global__ void __launch_bounds__(256) find_tiles(const Key* keys, const BinSizes* listed, int64_t tiles,
                                                  int64_t* offsets) {
  const int64_t t = thread_index();
  if (t > tiles) return;
  int64_t low = 0, high = listed->entries;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (int64_t(keys[middle]) < t)
      low = middle + 1;
    else
      high = middle;
  }
  offsets[t] = low;
}

int bits_for(uint64_t largest) {
  int bits = 1;
  while (bits < 64 && largest >> bits) ++bits;
  return bits;
}

// The splats to draw, in drawing order, and where each begins to emit (null: at its splat offset).
struct Drawing {
  int32_t* order;
  int64_t* offsets;
};
Drawing drawing_order(const BinParams& p, const Arena& arena, const BinCounts& counts, const BinSizes* listed,
                      int64_t room, cudaStream_t stream) {
  const int64_t count = p.splats.count;
  const Sequence sequence{counts.by_id, count / p.cameras};
  uint32_t* keys = p.depths ? arena.take_array<uint32_t>(room) : nullptr;
  Drawing d{arena.take_array<int32_t>(room), nullptr};
  SPLAT_LAUNCH(list_visible, dim3(blocks_for(count > room ? count : room)), dim3(kThreads), stream, p.depths, count,
               sequence, static_cast<const int32_t*>(counts.places), listed, room, keys, d.order);
  if (p.depths == nullptr) return d;
  sort_pairs(arena, keys, d.order, room, 32, stream);
  int64_t* sizes = arena.take_array<int64_t>(room + 1);
  d.offsets = arena.take_array<int64_t>(room + 1);
  SPLAT_LAUNCH(count_in_order, dim3(blocks_for(room + 1)), dim3(kThreads), stream,
               static_cast<const int64_t*>(counts.splat_offsets), static_cast<const int32_t*>(d.order), listed, room,
               sizes);
  exclusive_sum(arena, static_cast<const int64_t*>(sizes), d.offsets, room + 1, stream);
  return d;
}

// Key: the narrowest integer that holds every tile.
template <class Key>
void fill(const BinParams& p, const Arena& arena, const BinCounts& counts, const BinSizes* listed, const BinLists& out,
          cudaStream_t stream) {
  const int64_t tiles = p.cameras * p.grid.tiles(), room = out.room.entries;
  Key* keys = arena.take_array<Key>(room);
  int32_t* slots = nullptr;
  Touch* touches = nullptr;
  if (room > 0 && out.room.visible > 0) {
    const Drawing d = drawing_order(p, arena, counts, listed, out.room.visible, stream);
    slots = arena.take_array<int32_t>(room);
    touches = arena.take_array<Touch>(room);
    require(cudaMemsetAsync(keys, 0xff, sizeof(Key) * size_t(room), stream));  // beyond the last entry: after every tile
    SplatArrays visible = p.splats;  // their radii and colours have been looked at
    visible.radii = nullptr, visible.channels = 0;
    SPLAT_LAUNCH(emit<Key>, dim3(blocks_for(out.room.visible)), dim3(kThreads), stream, visible, p.grid, p.cutoff,
                 p.splats.count / p.cameras, static_cast<const int64_t*>(counts.splat_offsets),
                 static_cast<const int32_t*>(d.order), static_cast<const int64_t*>(d.offsets), listed, keys, slots,
                 touches);
    sort_pairs(arena, keys, slots, room, bits_for(uint64_t(tiles)), stream);
  }
  if (room > 0)
    SPLAT_LAUNCH(fill_entries, dim3(blocks_for(room)), dim3(kThreads), stream, static_cast<const Touch*>(touches),
                 static_cast<const int32_t*>(slots), listed, out);
  SPLAT_LAUNCH(find_tiles<Key>, dim3(blocks_for(tiles + 1)), dim3(kThreads), stream, static_cast<const Key*>(keys),
               listed, tiles, out.tile_offsets);
}

}  // namespace

BinCounts bin_count(const BinParams& p, const Arena& arena, int64_t* splat_offsets, BinSizes* totals,
                    cudaStream_t stream) {
  const int64_t count = p.splats.count, per_camera = p.cameras > 0 ? count / p.cameras : 0;
  BinCounts c{splat_offsets, totals, nullptr, arena.take_array<int32_t>(count + 1)};
  int64_t* counts = arena.take_array<int64_t>(count + 1);
  SPLAT_LAUNCH(count_tiles, dim3(blocks_for(count + 1)), dim3(kThreads), stream, p.splats, p.grid, p.cutoff, counts);
  exclusive_sum(arena, static_cast<const int64_t*>(counts), splat_offsets, count + 1, stream);
  if (p.depths != nullptr && p.ids != nullptr && per_camera > 0) {
    uint64_t* id = arena.take_array<uint64_t>(per_camera);
    int64_t* by_id = arena.take_array<int64_t>(per_camera);
    SPLAT_LAUNCH(id_keys, dim3(blocks_for(per_camera)), dim3(kThreads), stream, p.ids, per_camera, id, by_id);
    sort_pairs(arena, id, by_id, per_camera, 64, stream);
    c.by_id = by_id;
  }
  int32_t* flags = arena.take_array<int32_t>(count + 1);
  SPLAT_LAUNCH(flag_visible, dim3(blocks_for(count + 1)), dim3(kThreads), stream,
               static_cast<const int64_t*>(splat_offsets), count, (Sequence{c.by_id, per_camera}), flags);
  exclusive_sum(arena, static_cast<const int32_t*>(flags), c.places, count + 1, stream);
  SPLAT_LAUNCH(write_totals, dim3(1), dim3(1), stream, static_cast<const int64_t*>(splat_offsets),
               static_cast<const int32_t*>(c.places), count, totals);
  return c;
}

BinSizes read_totals(const BinSizes* totals, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) != cudaSuccess) return {-1, 0};
  if (status != cudaStreamCaptureStatusNone) return {-2, 0};
  BinSizes read{};
  cudaMemcpyAsync(&read, totals, sizeof read, cudaMemcpyDeviceToHost, stream);
  return cudaStreamSynchronize(stream) == cudaSuccess ? read : BinSizes{-1, 0};
}

void bin_fill(const BinParams& p, const Arena& arena, const BinCounts& counts, const BinLists& out,
              cudaStream_t stream) {
  BinSizes* listed = arena.take_array<BinSizes>(1);
  constexpr unsigned kMostBlocks = 1024;  // they stride: usually there is nothing to clear
  const unsigned blocks = blocks_for(p.splats.count + 1);
  SPLAT_LAUNCH(fit_totals, dim3(blocks < kMostBlocks ? blocks : kMostBlocks), dim3(kThreads), stream,
               static_cast<const BinSizes*>(counts.totals), out.room, p.splats.count, listed, counts.splat_offsets);
  if (p.cameras * p.grid.tiles() < 0xffff)
    fill<uint16_t>(p, arena, counts, listed, out, stream);
  else
    fill<uint32_t>(p, arena, counts, listed, out, stream);
}

}  // namespace splat::cuda
