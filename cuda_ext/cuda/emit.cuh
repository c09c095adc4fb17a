// The tiles that the splats of a warp touch. A splat over many rows of tiles would hold up the 31 others, so it is shared: a
// row for each lane.
#pragma once
#include "launch.h"
#include "splat/touch.h"

namespace splat::cuda {

constexpr int kOwnRows = 8;  // a splat that reaches more rows of tiles than this is shared

// value of lane `from`. Every lane of the warp calls it.
template <class T>
__device__ __forceinline__ T broadcast(const T& value, int from) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
  for (uint32_t& word : words) word = __shfl_sync(0xffffffffu, word, from);
  T result;
  memcpy(&result, words, sizeof result);
  return result;
}

// An ellipse that touches nothing.
__device__ __forceinline__ Ellipse nothing() {
  Ellipse e{};
  e.level = -1.0f;
  return e;
}

// Calls body(tile of the image, mask) for the tiles of one row that an ellipse touches, from left to right.
template <class F>
__device__ __forceinline__ void for_row_tiles(const Ellipse& e, const TileGrid& grid, int32_t row, F&& body) {
  const int32_t blocks_x = (grid.width + 3) / 4, bands = (grid.height + 3) / 4;
  int32_t first[kBands], last[kBands];
  for (int r = 0; r < kBands; ++r) {
    const int32_t band = row * kBands + r;
    const BandBlocks<float> b = band_blocks(e, float(band), blocks_x);
    const int32_t a = int32_t(ceilf(b.first));
    first[r] = a < 0 ? 0 : a;
    last[r] = b.y0 < b.y1 && band < bands ? int32_t(floorf(b.last)) : -1;
  }
  for_tiles_of_row(first, last, [&](int32_t column, uint32_t mask) { body(row * grid.tiles_x() + column, mask); });
}

// Sum of `value` over the lanes before this one, and over all.
struct Prefix {
  int32_t before, total;
};
__device__ __forceinline__ Prefix prefix_sum(int32_t value, int lane) {
  int32_t sum = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int32_t below = __shfl_sync(0xffffffffu, sum, lane - distance < 0 ? lane : lane - distance);
    if (lane >= distance) sum += below;
  }
  return {sum - value, __shfl_sync(0xffffffffu, sum, 31)};
}

// Calls body(target, number of the splat's tiles before this one, tile of the image, mask) for the tiles of every lane's
// ellipse, row-major, with that lane's target, and returns the number of this lane's. Every lane of the warp calls it.
template <class Target, class Body>
__device__ __forceinline__ int64_t for_warp_tiles(const Ellipse& e, const TileGrid& grid, const Target& target,
                                                  Body&& body) {
  const int lane = int(threadIdx.x) % 32;
  const TileRows rows = tile_rows(e, grid);
  const bool shared = rows.last - rows.first >= kOwnRows;
  int64_t count = 0;
  for (int32_t row = rows.first; !shared && row <= rows.last; ++row)
    for_row_tiles(e, grid, row, [&](int32_t tile, uint32_t mask) { body(target, count++, tile, mask); });
  for (unsigned left = __ballot_sync(0xffffffffu, shared); left != 0; left &= left - 1) {
    const int from = __ffs(int(left)) - 1;
    const Ellipse of = broadcast(e, from);
    const TileRows all = broadcast(rows, from);
    const Target to = broadcast(target, from);
    int64_t total = 0;
    for (int32_t first = all.first; first <= all.last; first += 32) {
      const int32_t row = first + lane;
      int32_t mine = 0;
      if (row <= all.last) for_row_tiles(of, grid, row, [&](int32_t, uint32_t) { ++mine; });
      const Prefix sum = prefix_sum(mine, lane);
      int64_t at = total + sum.before;
      if (row <= all.last)
        for_row_tiles(of, grid, row, [&](int32_t tile, uint32_t mask) { body(to, at++, tile, mask); });
      total += sum.total;
    }
    if (lane == from) count = total;
  }
  return count;
}

}  // namespace splat::cuda
