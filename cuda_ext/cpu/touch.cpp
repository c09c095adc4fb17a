// What each splat touches (touch.h), a register of bands at a time.
#include "splat/touch.h"

#include <cstdlib>

#include "binning.h"
#include "kernels.h"
#include "lanes.h"

SPLAT_KERNEL(touch, const SplatArrays&, TileGrid, float, int64_t, int64_t, TouchPiece&, int64_t*)

namespace splat::cpu::SPLAT_ISA {
namespace {

// Grows by doubling; realloc has no throwing path to unwind.
void reserve(TouchPiece& piece, int64_t more) {
  if (piece.count + more <= piece.capacity) return;
  int64_t capacity = piece.capacity ? piece.capacity : 4096;
  while (capacity < piece.count + more) capacity *= 2;
  piece.tiles = static_cast<int32_t*>(std::realloc(piece.tiles, capacity * sizeof(int32_t)));
  piece.masks = static_cast<int16_t*>(std::realloc(piece.masks, capacity * sizeof(int16_t)));
  if (piece.tiles == nullptr || piece.masks == nullptr) std::abort();  // 1,024 splats' tiles do not fit in memory
  piece.capacity = capacity;
}

// Inclusive intervals of blocks in kLanes bands from `band`; an empty one has first > last.
struct Intervals {
  alignas(64) int32_t first[kLanes];
  alignas(64) int32_t last[kLanes];
};

SPLAT_HD void intervals(const Ellipse& e, int32_t band, int32_t blocks_x, int32_t bands, Intervals& out) {
  IntVector index;
  for (int i = 0; i < kLanes; ++i) index[i] = band + i;
  const BandBlocks<Lanes> b = band_blocks(e, Lanes(__builtin_convertvector(index, FloatVector)), blocks_x);
  // To whole blocks: ceil(first), at least 0, and floor(last); both are >= -1, so truncation of x + 2 is floor.
  const auto floor_of = [](Lanes x) { return __builtin_convertvector(x.v + 2.0f, IntVector) - 2; };
  IntVector a = floor_of(b.first);
  a -= __builtin_convertvector(a, FloatVector) < b.first.v;
  const Mask drawn = (b.y0 < b.y1) & Mask{index < bands};
  store_int(out.first, a < 0 ? IntVector{} : a);
  store_int(out.last, select_int(drawn, floor_of(b.last), IntVector{} - 1));
}

SPLAT_HD int64_t touch_splat(const Ellipse& e, TileGrid grid, TouchPiece& piece) {
  const int32_t blocks_x = (grid.width + 3) / 4, bands = (grid.height + 3) / 4;
  const TileRows rows = tile_rows(e, grid);
  const int64_t before = piece.count;
  Intervals in;
  constexpr int kRows = kLanes / kBands;  // rows of tiles in one vector
  for (int32_t row = rows.first; row <= rows.last; row += kRows) {
    intervals(e, row * kBands, blocks_x, bands, in);
    for (int r = 0; r < kRows && row + r <= rows.last; ++r) {
      reserve(piece, grid.tiles_x());
      for_tiles_of_row(in.first + r * kBands, in.last + r * kBands, [&](int32_t column, uint32_t mask) {
        const int64_t i = piece.count++;
        piece.tiles[i] = (row + r) * grid.tiles_x() + column;
        piece.masks[i] = int16_t(uint16_t(mask));
      });
    }
  }
  return piece.count - before;
}

}  // namespace

void touch(const SplatArrays& splats, TileGrid grid, float cutoff, int64_t begin, int64_t end, TouchPiece& piece,
           int64_t* tiles_per_splat) {
  const float log2_cutoff = log2_fast(cutoff);
  constexpr int64_t kChunk = 64;  // ellipses made together, in vectors over splats
  Ellipse ellipses[kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t count = end - first < kChunk ? end - first : kChunk;
    for (int64_t k = 0; k < count; ++k) ellipses[k] = make_ellipse(splats, first + k, log2_cutoff);
    for (int64_t k = 0; splats.channels > 0 && k < count; ++k)
      if (!finite_colors(splats, first + k)) ellipses[k].level = -1.0f;
    for (int64_t k = 0; k < count; ++k)
      tiles_per_splat[first + k] = ellipses[k].level >= 0.0f ? touch_splat(ellipses[k], grid, piece) : 0;
  }
}

}  // namespace splat::cpu::SPLAT_ISA
