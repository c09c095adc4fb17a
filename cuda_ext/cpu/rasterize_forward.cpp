// Tile lists -> image.
#include "tile_forward.h"

SPLAT_KERNEL(rasterize_forward, const RasterizeParams&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <Blend kBlend, int kFixed>
void forward(const RasterizeParams& p) {
  const Splats splats(p.splats, p.cutoff);
  const int K = kBlend == Blend::kTopK ? p.topk : 0;
  parallel_for(p.cameras * p.grid.tiles(), kTilesAtOnce, [&](int64_t b, int64_t e) {
    Scratch<float> color(int64_t(p.channels) * kPixels), top_weights(int64_t(K) * kPixels);
    Scratch<int32_t> top_entries(int64_t(K) * kPixels);
    ForwardState tile;
    tile.color = color;
    tile.top_weights = top_weights;
    tile.top_entries = top_entries;
    for (int64_t i = b; i < e; ++i) {
      const TilePlace place = tile_place(p, i);
      clear_tile<kBlend>(p, tile);
      blend_tile<kBlend, kFixed>(p, splats.data, place, tile);
      write_tile<kBlend, kFixed>(p, place, tile);
    }
  });
}

}  // namespace

void rasterize_forward(const RasterizeParams& p) {
  with_blend(p.blend, [&](auto blend) {
    with_channels(p.channels, [&](auto channels) { forward<decltype(blend)::value, decltype(channels)::value>(p); });
  });
}

}  // namespace splat::cpu::SPLAT_ISA
