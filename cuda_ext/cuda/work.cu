#include "work.h"

#include "launch.h"
#include "sort.h"

namespace splat::cuda {
namespace {

constexpr int kThreads = 256;
unsigned blocks_for(int64_t count) { return unsigned((count + kThreads - 1) / kThreads); }

__device__ __forceinline__ int32_t list_length(const int64_t* offsets, int64_t t) {
  return int32_t(offsets[t + 1] - offsets[t]);
}
__device__ __forceinline__ int32_t parts_of(int32_t length, int32_t longest) {
  return longest > 0 && length > longest ? (length - 1) / longest + 1 : 1;
}

// counts [tiles + 1], the last one 0.
__global__ void __launch_bounds__(256) count_parts(const int64_t* tile_offsets, int64_t tiles, int32_t longest,
                                                   int32_t* counts) {
  const int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (t > tiles) return;
  counts[t] = t < tiles ? parts_of(list_length(tile_offsets, t), longest) : 0;
}

// A thread for each tile lists its parts; one for each place beyond the last marks it as empty. keys: shortest last.
__global__ void __launch_bounds__(256) list_parts(const int64_t* tile_offsets, int64_t tiles, int32_t longest,
                                                  const int32_t* first, int64_t room, Part* parts, uint16_t* keys) {
  const int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t used = first ? first[tiles] : tiles;
  if (t >= used && t < room) {
    parts[t] = {-1, 0, 0, 0};
    if (keys) keys[t] = 0xffff;
  }
  if (t >= tiles) return;
  const int32_t length = list_length(tile_offsets, t), count = parts_of(length, longest);
  const int64_t at = first ? first[t] : t;
  for (int32_t k = 0; k < count; ++k) {
    parts[at + k] = {int32_t(t), k, count, int32_t(at + k)};
    const int32_t entries = longest > 0 && length - k * longest > longest ? longest : length - k * longest;
    if (keys) keys[at + k] = uint16_t(0xfffe - (entries < 0xfffe ? entries : 0xfffe));
  }
}

}  // namespace

Sharing share_tiles(const RasterizeParams& p) {
  const int64_t tiles = p.cameras * p.grid.tiles(), entries = p.lists.count;
  if (tiles == 0 || p.blend == Blend::kTopK) return {0, false};
  const int64_t mean = entries / tiles;
  constexpr int64_t kFewTiles = 1024, kLongLists = 256;  // under them there is too little to win for more launches
  constexpr int64_t kMostPartialBytes = int64_t{256} << 20;
  Sharing s{0, mean >= kLongLists};
  if (tiles > kFewTiles || mean < 4 * kLongLists) return s;
  const int64_t longest = mean / 8 > 1024 ? mean / 8 : 1024;
  const int64_t partial = (tiles + entries / longest) * (picture_size(p.channels) + kTile * kTile) * 4;
  if (partial <= kMostPartialBytes && longest < INT32_MAX) s.longest = int32_t(longest);
  return s;
}

Work share(const RasterizeParams& p, const Sharing& sharing, const Arena& arena, cudaStream_t stream) {
  const int64_t tiles = p.cameras * p.grid.tiles();
  Work work{nullptr, tiles, sharing.longest, nullptr, nullptr};
  if (tiles == 0 || (!sharing.by_length && !work.split())) return work;
  int32_t* first = nullptr;
  if (work.split()) {
    work.count += p.lists.count / sharing.longest;
    int32_t* counts = arena.take_array<int32_t>(tiles + 1);
    first = arena.take_array<int32_t>(tiles + 1);
    SPLAT_LAUNCH(count_parts, dim3(blocks_for(tiles + 1)), dim3(kThreads), stream, p.lists.tile_offsets, tiles,
                 sharing.longest, counts);
    exclusive_sum(arena, static_cast<const int32_t*>(counts), first, tiles + 1, stream);
    work.pictures = arena.take_array<float>(work.count * picture_size(p.channels));
    work.through = arena.take_array<float>(work.count * kTile * kTile);
  }
  Part* parts = arena.take_array<Part>(work.count);
  uint16_t* keys = sharing.by_length ? arena.take_array<uint16_t>(work.count) : nullptr;
  SPLAT_LAUNCH(list_parts, dim3(blocks_for(work.count)), dim3(kThreads), stream, p.lists.tile_offsets, tiles,
               sharing.longest, static_cast<const int32_t*>(first), work.count, parts, keys);
  if (sharing.by_length) sort_pairs(arena, keys, parts, work.count, 16, stream);
  work.parts = parts;
  return work;
}

}  // namespace splat::cuda
