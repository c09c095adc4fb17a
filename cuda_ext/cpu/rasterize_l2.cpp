// One step of a least-squares fit of order-free splats: image, residual and gradients, a tile at a time. It is the forward
// and the backward pass of the tile with the weights kept in between, and the pictures stay in the tile's pixel order.
#include "tile_backward.h"
#include "tile_forward.h"

SPLAT_KERNEL(rasterize_l2, const RasterizeParams&, const RasterizeGrads&, const L2Params&)

namespace splat::cpu::SPLAT_ISA {
namespace {

constexpr int64_t kKeptEntries = 2048;  // weights are kept for tiles with at most this many entries (1 KiB each)

// What L2Params says of tile number `index`, and dL/dimage = -residual; 0 outside the picture.
SPLAT_HD void residual_of_tile(const RasterizeParams& p, const TilePlace& place, int64_t index, const float* color,
                               const L2Params& l2, float* v_color) {
  const Lanes columns(float(p.grid.width - place.x0)), rows(float(p.grid.height - place.y0));
  const float* target = l2.target + index * p.channels * kPixels;
  float* residual = l2.residual + index * p.channels * kPixels;
  double* errors = l2.squared_errors + 2 * index;
  errors[0] = errors[1] = 0.0;
  for (int d = 0; d < p.channels; ++d) {
    Lanes squares(0.0f), clamped_squares(0.0f);
    for (int i = d * kPixels; i < (d + 1) * kPixels; i += kLanes) {
      const int pixel = i & (kPixels - 1);
      const Mask inside = (load(kCentres.x + pixel) < columns) & (load(kCentres.y + pixel) < rows);
      const Lanes c = load(color + i), wanted = load(target + i);
      const Lanes weight = l2.weights ? load(l2.weights + l2.weight_at(index, d, pixel)) : Lanes(1.0f);
      const Lanes error = keep(inside, wanted - c), r = weight * error;
      const Lanes clamped = keep(inside, wanted - minimum(maximum(c, Lanes(0.0f)), Lanes(1.0f)));
      store(residual + i, r);
      store(v_color + i, -r);
      squares += r * error;
      clamped_squares += weight * clamped * clamped;
    }
    for (int i = 0; i < kLanes; ++i) errors[0] += double(squares.v[i]), errors[1] += double(clamped_squares.v[i]);
  }
}

template <int kFixed>
void fit_step(const RasterizeParams& p, const RasterizeGrads& g, const L2Params& l2) {
  const Splats splats(p.splats, p.cutoff);
  const int64_t tiles = p.cameras * p.grid.tiles();
  const int record_size = Records::size_for(p.channels, false);
  Scratch<float> memory(p.lists.tile_offsets[tiles] * record_size);
  const Records records{memory, record_size};
  parallel_for(tiles, kTilesAtOnce, [&](int64_t b, int64_t e) {
    Scratch<float> color(int64_t(p.channels) * kPixels), v_color(int64_t(p.channels) * kPixels);
    int64_t most = 0;
    for (int64_t i = b; i < e; ++i) {
      const int64_t entries = p.lists.tile_offsets[i + 1] - p.lists.tile_offsets[i];
      most = entries > most && entries <= kKeptEntries ? entries : most;
    }
    Scratch<float> kept(most * kPixels);
    Scratch<Lanes> sums(record_size);
    ForwardState forward{};
    forward.color = color;
    BackwardState backward{};
    backward.v_color = v_color;
    for (int64_t i = b; i < e; ++i) {
      const TilePlace place = tile_place(p, i);
      const bool keep_weights = place.end - place.begin <= kKeptEntries;
      clear_tile<Blend::kSum>(p, forward);
      if (keep_weights)
        blend_tile<Blend::kSum, kFixed, true>(p, splats.data, place, forward, kept);
      else
        blend_tile<Blend::kSum, kFixed>(p, splats.data, place, forward);
      residual_of_tile(p, place, i, color, l2, v_color);
      order_free_tile_vjp<Blend::kSum, kFixed, false>(p, splats.data, place, backward, keep_weights ? kept.data : nullptr,
                                                      sums, records);
    }
  });
  parallel_for(p.splats.count, 1024,
               [&](int64_t b, int64_t e) { sum_records<kFixed, false>(p, g, splats.data, records, b, e); });
}

}  // namespace

void rasterize_l2(const RasterizeParams& p, const RasterizeGrads& g, const L2Params& l2) {
  with_channels(p.channels, [&](auto channels) { fit_step<decltype(channels)::value>(p, g, l2); });
}

}  // namespace splat::cpu::SPLAT_ISA
