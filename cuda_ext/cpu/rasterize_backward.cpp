// Gradients of the image.
#include "tile_backward.h"

SPLAT_KERNEL(rasterize_backward, const RasterizeParams&, const RasterizeGrads&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <Blend kBlend, int kFixed, bool kAbs>
void backward(const RasterizeParams& p, const RasterizeGrads& g) {
  const Splats splats(p.splats, p.cutoff);
  const int64_t tiles = p.cameras * p.grid.tiles();
  const int record_size = Records::size_for(p.channels, kAbs);
  Scratch<float> memory(p.lists.tile_offsets[tiles] * record_size);
  const Records records{memory, record_size};
  parallel_for(tiles, kTilesAtOnce, [&](int64_t b, int64_t e) {
    Scratch<float> v_color(int64_t(p.channels) * kPixels);
    Scratch<Lanes> sums(int64_t(kPiece) * record_size);
    BackwardState t;
    t.v_color = v_color;
    for (int64_t i = b; i < e; ++i) {
      const TilePlace place = tile_place(p, i);
      if (place.begin == place.end) continue;
      load_tile<kBlend, kFixed>(p, g, place, t);
      if constexpr (kBlend == Blend::kAlpha)
        alpha_tile_vjp<kFixed, kAbs>(p, splats.data, place, t, sums, records);
      else
        order_free_tile_vjp<kBlend, kFixed, kAbs>(p, splats.data, place, t, nullptr, sums, records);
    }
  });
  parallel_for(p.splats.count, 1024, [&](int64_t b, int64_t e) {
    sum_records<kFixed, kAbs>(p, g, splats.data, records, b, e);
  });
}

}  // namespace

void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g) {
  with_blend(p.blend, [&](auto blend) {
    with_channels(p.channels, [&](auto channels) {
      constexpr Blend kBlend = decltype(blend)::value;
      constexpr int kFixed = decltype(channels)::value;
      g.v_means2d_abs ? backward<kBlend, kFixed, true>(p, g) : backward<kBlend, kFixed, false>(p, g);
    });
  });
}

}  // namespace splat::cpu::SPLAT_ISA
