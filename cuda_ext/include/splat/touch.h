// Which 4x4 pixel blocks an ellipse touches, exactly. A row of blocks is a "band": the part of the ellipse inside one is
// convex, so the blocks that it touches there are an interval, found from the ellipse's extent inside the band. Templated on
// the value V: one band in CUDA, a register of bands on the CPU.
#pragma once
#include <stdint.h>

#include "splat/blend.h"
#include "splat/params.h"

namespace splat {

constexpr int kBands = kTile / 4;  // bands in a row of tiles, and blocks of a tile along it

struct Ellipse {
  Splat2D s;
  float inverse_ux;
  float level;         // u^2 + v^2 <= level inside; negative: nothing is drawn
  float half_height;   // largest |dy|
  float rightmost_dy;  // dy of the point with the largest dx (its mirror has the smallest)
};

// Whether the colours of splat i are finite, or unknown. Apart from make_ellipse, which then vectorises over splats.
SPLAT_HD bool finite_colors(const SplatArrays& a, int64_t i) {
  bool good = true;
  for (int32_t d = 0; d < a.channels; ++d) {
    const float c = a.colors[i * a.channels + d];
    good &= c - c == 0.0f;
  }
  return good;
}

SPLAT_HD Ellipse make_ellipse(const SplatArrays& a, int64_t i, float log2_cutoff) {
  Ellipse e;
  const float* q = a.conics + 3 * i;
  e.s = make_splat(a.means2d[2 * i], a.means2d[2 * i + 1], q[0], q[1], q[2], a.opacities[i], log2_cutoff);
  const bool drawn = (e.s.bias >= log2_cutoff) & (a.radii == nullptr || a.radii[2 * i] > 0);
  // A little larger than exact, so that rounding here never loses a pixel that the blending kernel would draw.
  const float level = ((drawn ? e.s.bias : log2_cutoff) - log2_cutoff) * 1.00001f + 1e-5f;
  e.level = drawn ? level : -1.0f;
  e.inverse_ux = 1.0f / e.s.ux;
  e.half_height = sqrtf(level) / e.s.vy;
  e.rightmost_dy = -e.half_height * e.s.uy / sqrtf(e.s.uy * e.s.uy + e.s.vy * e.s.vy);
  return e;
}

// The rows of tiles that an ellipse reaches, first > last where none.
struct TileRows {
  int32_t first, last;
};
SPLAT_HD TileRows tile_rows(const Ellipse& e, const TileGrid& grid) {
  const float top = e.s.y - e.half_height, bottom = e.s.y + e.half_height;
  if (!(e.level >= 0.0f && bottom > 0.0f && top < float(grid.height))) return {0, -1};
  return {top <= 0.0f ? 0 : int32_t(top / float(kTile)),
          bottom >= float(grid.height) ? grid.tiles_y() - 1 : int32_t(bottom / float(kTile))};
}

// Blocks first .. last (before rounding: up and down) that an ellipse touches in a band; none where y0 >= y1.
template <class V>
struct BandBlocks {
  V first, last;
  V y0, y1;  // the band's rows inside the ellipse, relative to its centre
};
// band: index of the band, as a value. Block k covers the pixel centres 4k + 0.5 .. 4k + 3.5.
template <class V>
SPLAT_HD BandBlocks<V> band_blocks(const Ellipse& e, V band, int32_t blocks_x) {
  BandBlocks<V> r;
  const V top = band * V(4.0f) + V(0.5f - e.s.y);
  r.y0 = maximum(top, V(-e.half_height));
  r.y1 = minimum(top + V(3.0f), V(e.half_height));
  const V right_dy = minimum(maximum(V(e.rightmost_dy), r.y0), r.y1);
  const V left_dy = minimum(maximum(V(-e.rightmost_dy), r.y0), r.y1);
  const auto reach = [&](V dy) {  // half width at dy, in u
    const V v = V(e.s.vy) * dy;
    return square_root(maximum(V(e.level) - v * v, V(0.0f)));
  };
  const V right = V(e.s.x) + (reach(right_dy) - V(e.s.uy) * right_dy) * V(e.inverse_ux);
  const V left = V(e.s.x) - (reach(left_dy) + V(e.s.uy) * left_dy) * V(e.inverse_ux);
  r.first = maximum(minimum((left - V(3.5f)) * V(0.25f), V(float(blocks_x))), V(-1.0f));
  r.last = maximum(minimum((right - V(0.5f)) * V(0.25f), V(float(blocks_x - 1))), V(-1.0f));
  return r;
}

SPLAT_HD int32_t clamp_to_tile(int32_t block) { return block < 0 ? 0 : (block > kBands ? kBands : block); }

// Calls body(column of tiles, mask) for the tiles of one row that the four bands' inclusive intervals of blocks reach; an
// empty interval has first > last.
template <class F>
SPLAT_HD void for_tiles_of_row(const int32_t* first, const int32_t* last, F&& body) {
  int32_t low = INT32_MAX, high = -1;
  for (int r = 0; r < kBands; ++r) {
    if (first[r] > last[r]) continue;
    low = first[r] < low ? first[r] : low;
    high = last[r] > high ? last[r] : high;
  }
  if (high < 0) return;
  for (int32_t column = low / kBands; column <= high / kBands; ++column) {
    uint32_t mask = 0;
    for (int r = 0; r < kBands; ++r) {
      const int32_t a = clamp_to_tile(first[r] - kBands * column), b = clamp_to_tile(last[r] + 1 - kBands * column);
      mask |= (((1u << b) - 1u) & ~((1u << a) - 1u)) << (kBands * r);
    }
    if (mask != 0) body(column, mask);
  }
}

}  // namespace splat
