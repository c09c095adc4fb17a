// Exact test of ellipse against 4x4 pixel blocks, a whole row of blocks ("band") per lane: the part of the ellipse in a
// band is convex, so the blocks that it touches are an interval, found from the ellipse's extent inside the band.
#include <cmath>
#include <cstdlib>

#include "binning.h"
#include "kernels.h"
#include "lanes.h"
#include "splat/blend.h"

SPLAT_KERNEL(touch, const SplatArrays&, TileGrid, float, int64_t, int64_t, TouchPiece&, int64_t*)

namespace splat::cpu::SPLAT_ISA {
namespace {

constexpr int kBands = kTile / 4;  // bands in a row of tiles

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

struct Ellipse {
  Splat2D s;
  float inverse_ux;
  float level;         // u^2 + v^2 <= level inside; negative: nothing is drawn
  float half_height;   // largest |dy|
  float rightmost_dy;  // dy of the point with the largest dx (its mirror has the smallest)
};

SPLAT_HD Ellipse make_ellipse(const SplatArrays& a, int64_t i, float log2_cutoff) {
  Ellipse e;
  const float* q = a.conics + 3 * i;
  e.s = make_splat(a.means2d[2 * i], a.means2d[2 * i + 1], q[0], q[1], q[2], a.opacities[i], log2_cutoff);
  const bool drawn = (e.s.bias >= log2_cutoff) & (a.radii == nullptr || a.radii[2 * i] > 0);
  // A little larger than exact, so that rounding here never loses a pixel that the blending kernel would draw.
  const float level = ((drawn ? e.s.bias : log2_cutoff) - log2_cutoff) * 1.00001f + 1e-5f;
  e.level = drawn ? level : -1.0f;
  e.inverse_ux = 1.0f / e.s.ux;
  e.half_height = __builtin_sqrtf(level) / e.s.vy;
  e.rightmost_dy = -e.half_height * e.s.uy / __builtin_sqrtf(e.s.uy * e.s.uy + e.s.vy * e.s.vy);
  return e;
}

SPLAT_HD void intervals(const Ellipse& e, int32_t band, int32_t blocks_x, int32_t bands, Intervals& out) {
  IntVector index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  const Lanes top(__builtin_convertvector(index, FloatVector) * 4.0f + (4.0f * float(band) + 0.5f - e.s.y));
  const Lanes y0 = maximum(top, Lanes(-e.half_height));
  const Lanes y1 = minimum(top + Lanes(3.0f), Lanes(e.half_height));
  const Lanes right_dy = minimum(maximum(Lanes(e.rightmost_dy), y0), y1);
  const Lanes left_dy = minimum(maximum(Lanes(-e.rightmost_dy), y0), y1);
  const auto reach = [&](Lanes dy) {  // half width at dy, in u
    const Lanes v = Lanes(e.s.vy) * dy;
    return square_root(maximum(Lanes(e.level) - v * v, Lanes(0.0f)));
  };
  const Lanes inverse(e.inverse_ux);
  const Lanes right = Lanes(e.s.x) + (reach(right_dy) - Lanes(e.s.uy) * right_dy) * inverse;
  const Lanes left = Lanes(e.s.x) - (reach(left_dy) + Lanes(e.s.uy) * left_dy) * inverse;
  // Block k covers the pixel centres 4k + 0.5 .. 4k + 3.5.
  const Lanes first = maximum(minimum((left - Lanes(3.5f)) * Lanes(0.25f), Lanes(float(blocks_x))), Lanes(-1.0f));
  const Lanes last = maximum(minimum((right - Lanes(0.5f)) * Lanes(0.25f), Lanes(float(blocks_x - 1))), Lanes(-1.0f));
  // To whole blocks: ceil(first), at least 0, and floor(last); both are >= -1, so truncation of x + 2 is floor.
  const auto floor_of = [](Lanes x) { return __builtin_convertvector(x.v + 2.0f, IntVector) - 2; };
  IntVector a = floor_of(first);
  a -= __builtin_convertvector(a, FloatVector) < first.v;
  const Mask drawn = (y0 < y1) & Mask{index + band < bands};
  const IntVector none = IntVector{} - 1;
  store_int(out.first, a < 0 ? IntVector{} : a);
  store_int(out.last, select_int(drawn, floor_of(last), none));
}

SPLAT_HD int32_t clamp4(int32_t x) { return x < 0 ? 0 : (x > 4 ? 4 : x); }

// The tiles of one row of tiles, from its four intervals.
SPLAT_HD int64_t emit_row(const int32_t* first, const int32_t* last, int32_t row_tile, TouchPiece& piece) {
  int32_t low = INT32_MAX, high = -1;
  for (int r = 0; r < kBands; ++r) {
    if (first[r] > last[r]) continue;
    low = first[r] < low ? first[r] : low;
    high = last[r] > high ? last[r] : high;
  }
  if (high < 0) return 0;
  const int32_t from = low / kBands, to = high / kBands;
  reserve(piece, to - from + 1);
  int64_t emitted = 0;
  for (int32_t tx = from; tx <= to; ++tx) {
    uint32_t mask = 0;
    for (int r = 0; r < kBands; ++r) {
      const int32_t a = clamp4(first[r] - kBands * tx), b = clamp4(last[r] + 1 - kBands * tx);
      mask |= (((1u << b) - 1u) & ~((1u << a) - 1u)) << (kBands * r);
    }
    if (mask == 0) continue;
    const int64_t i = piece.count++;
    piece.tiles[i] = row_tile + tx;
    piece.masks[i] = int16_t(uint16_t(mask));
    ++emitted;
  }
  return emitted;
}

SPLAT_HD int64_t touch_splat(const Ellipse& e, TileGrid grid, TouchPiece& piece) {
  const Splat2D& s = e.s;
  const int32_t blocks_x = (grid.width + 3) / 4, bands = (grid.height + 3) / 4;
  if (!(s.y + e.half_height > 0.0f && s.y - e.half_height < float(grid.height))) return 0;
  const float top = s.y - e.half_height, bottom = s.y + e.half_height;
  const int32_t row0 = top <= 0.0f ? 0 : int32_t(top / float(kTile));
  const int32_t row1 = bottom >= float(grid.height) ? grid.tiles_y() - 1 : int32_t(bottom / float(kTile));
  int64_t emitted = 0;
  Intervals in;
  constexpr int kRows = kLanes / kBands;  // rows of tiles in one vector
  for (int32_t row = row0; row <= row1; row += kRows) {
    intervals(e, row * kBands, blocks_x, bands, in);
    for (int r = 0; r < kRows && row + r <= row1; ++r)
      emitted += emit_row(in.first + r * kBands, in.last + r * kBands, (row + r) * grid.tiles_x(), piece);
  }
  return emitted;
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
    for (int64_t k = 0; k < count; ++k)
      tiles_per_splat[first + k] = ellipses[k].level >= 0.0f ? touch_splat(ellipses[k], grid, piece) : 0;
  }
}

}  // namespace splat::cpu::SPLAT_ISA
