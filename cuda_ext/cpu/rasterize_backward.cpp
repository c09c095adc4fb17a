// Gradients of the image. A tile's entries are taken one by one, back to front; an entry's sums over the tile stay in
// registers, the pixels' state in L1. Each entry writes one record at its slot; the records of a splat are then summed in
// the order of its tiles, so that the result has the same bits for any number of threads.
#include <cstring>

#include "tile.h"

SPLAT_KERNEL(rasterize_backward, const RasterizeParams&, const RasterizeGrads&)

namespace splat::cpu::SPLAT_ISA {
namespace {

constexpr int kMoments = 6;  // SplatMoments; then the colours, then (absgrad) two absolute sums

struct TileState {
  alignas(64) float T[kPixels];       // alpha: transmittance behind the current entry
  alignas(64) float behind[kPixels];  // alpha: see alpha_step_vjp; order-free: `base`
  alignas(64) float scale[kPixels];   // order-free: see order_free_vjp
  alignas(64) float kth[kPixels];     // topk: smallest weight that counts
  alignas(64) int32_t last[kPixels];  // alpha: last entry drawn; topk: entry of the smallest weight
  int32_t block_last[kBlocks];        // alpha: last entry that any pixel of the block drew
  float* v_color;                     // [channels][kPixels]
};

// One register of pixels through one entry: the derivative g = dL/d(ln alpha) and the weight of the entry's colour.
template <Blend kBlend>
SPLAT_HD Lanes pixel_vjp(Lanes log2_alpha, Lanes vc, Lanes cutoff, int32_t entry, int p, TileState& t, Lanes& weight) {
  Mask drawn = log2_alpha >= cutoff;
  const IntVector index = entry - IntVector{};
  if constexpr (kBlend == Blend::kAlpha) {
    drawn = drawn & Mask{load_int(t.last + p) >= index};
    Lanes T = load(t.T + p), behind = load(t.behind + p);
    const Lanes g = alpha_step_vjp(log2_alpha, drawn, vc, T, behind, weight);
    store(t.T + p, T);
    store(t.behind + p, behind);
    return g;
  } else {
    const Lanes w = keep(drawn, exp2_fast(log2_alpha));
    const Lanes scale = load(t.scale + p);
    if constexpr (kBlend == Blend::kTopK) {
      const Lanes kth = load(t.kth + p);
      const Mask counts = (w > kth) | ((w == kth) & Mask{load_int(t.last + p) >= index});
      weight = keep(counts, w) * scale;
      return keep(counts, order_free_vjp(w, vc, load(t.behind + p), scale));
    } else {
      weight = w;
      return order_free_vjp(w, vc, load(t.behind + p), scale);
    }
  }
}

template <Blend kBlend, int kFixed, bool kAbs>
SPLAT_HD void entry_vjp(const RasterizeParams& p, const Splat2D& splat, const TilePlace& place, int32_t entry,
                        uint32_t blocks, const float* color, TileState& t, Lanes* v_color_sums, float* record) {
  const LocalSplat s = localize(splat, float(place.x0), float(place.y0));
  const Lanes cutoff(log2_fast(p.cutoff));
  const int channels = kFixed ? kFixed : p.channels;
  Lanes g0(0.0f), gu(0.0f), gv(0.0f), guu(0.0f), guv(0.0f), gvv(0.0f), abs_x(0.0f), abs_y(0.0f);
  Lanes sums[kFixed ? kFixed : 1];
  for (int d = 0; d < kFixed; ++d) sums[d] = Lanes(0.0f);
  if (kFixed == 0)
    for (int d = 0; d < channels; ++d) v_color_sums[d] = Lanes(0.0f);
  for (uint32_t left = blocks; left != 0; left &= left - 1) {
    const int block = __builtin_ctz(left);
    for (int part = 0; part < kParts; ++part) {
      const int at = 16 * block + kLanes * part;
      const PixelCentres centre = pixel_centres(block, part);
      const Falloff<Lanes> f = falloff(s, centre.x, centre.y);
      Lanes vc = load(t.v_color + at) * Lanes(color[0]);
      for (int d = 1; d < channels; ++d) vc += load(t.v_color + d * kPixels + at) * Lanes(color[d]);
      Lanes weight(0.0f);
      const Lanes g = pixel_vjp<kBlend>(f.log2_alpha, vc, cutoff, entry, at, t, weight);
      for (int d = 0; d < channels; ++d)
        (kFixed ? sums[kFixed ? d : 0] : v_color_sums[d]) += weight * load(t.v_color + d * kPixels + at);
      const Lanes g_u = g * f.u, g_v = g * f.v;
      g0 += g;
      gu += g_u;
      gv += g_v;
      guu += g_u * f.u;
      guv += g_u * f.v;
      gvv += g_v * f.v;
      if constexpr (kAbs) {
        abs_x += absolute(g_u);
        abs_y += absolute(Lanes(s.uy) * g_u + Lanes(s.vy) * g_v);
      }
    }
  }
  float out[4];
  sum4(g0, gu, gv, guu, record);
  const Lanes none(0.0f);
  sum4(guv, gvv, kAbs ? abs_x : none, kAbs ? abs_y : none, out);
  record[4] = out[0];
  record[5] = out[1];
  if constexpr (kAbs) {
    record[kMoments + channels] = out[2];
    record[kMoments + channels + 1] = out[3];
  }
  for (int d = 0; d < channels; d += 4) {
    const auto channel = [&](int i) { return i < channels ? (kFixed ? sums[kFixed ? i : 0] : v_color_sums[i]) : none; };
    sum4(channel(d), channel(d + 1), channel(d + 2), channel(d + 3), out);
    for (int i = 0; i < 4 && d + i < channels; ++i) record[kMoments + d + i] = out[i];
  }
}

// Loads a tile's pixels; those outside the picture get zero gradient.
template <Blend kBlend, int kFixed>
void load_tile(const RasterizeParams& p, const RasterizeGrads& g, const TilePlace& place, TileState& t) {
  const int channels = kFixed ? kFixed : p.channels;
  if (place.x0 + kTile > p.grid.width || place.y0 + kTile > p.grid.height) {
    std::memset(t.v_color, 0, sizeof(float) * channels * kPixels);
    for (int i = 0; i < kPixels; ++i) {
      t.T[i] = 1.0f;
      t.behind[i] = t.scale[i] = t.kth[i] = 0.0f;
      t.last[i] = -1;
    }
  }
  const float* background = p.backgrounds ? p.backgrounds + int64_t(place.camera) * channels : nullptr;
  const int64_t plane = int64_t(p.grid.width) * p.grid.height;
  for_pixels(p, place, [&](int in, int64_t from) __attribute__((always_inline)) {
    float v_background = 0.0f, v_image = 0.0f;  // dL/dC . background, dL/dC . C
    const float* v = g.v_image + from * channels;
    for (int d = 0; d < channels; ++d) t.v_color[d * kPixels + in] = v[d];
    if constexpr (kBlend == Blend::kAlpha)
      if (background)
        for (int d = 0; d < channels; ++d) v_background += v[d] * background[d];
    if constexpr (kBlend == Blend::kTopK)
      for (int d = 0; d < channels; ++d) v_image += v[d] * p.image[from * channels + d];
    const float v_alpha = g.v_alphas[from];
    if constexpr (kBlend == Blend::kAlpha) {
      t.T[in] = p.norm[from];
      t.last[in] = p.last[from];
      t.behind[in] = (v_background - v_alpha) * t.T[in];  // dL/dT_final T_final
    } else if constexpr (kBlend == Blend::kSum) {
      t.scale[in] = 1.0f;
      t.behind[in] = v_alpha;
    } else {
      const int64_t norm = from + place.camera * plane;
      t.kth[in] = p.norm[norm];
      t.scale[in] = p.norm[norm + plane];
      t.last[in] = p.last[from];
      t.behind[in] = v_alpha * kTopKEpsilon * t.scale[in] - v_image;
    }
  });
  for (int block = 0; block < kBlocks; ++block) {
    t.block_last[block] = kBlend == Blend::kAlpha ? -1 : INT32_MAX;
    if constexpr (kBlend == Blend::kAlpha)
      for (int i = 0; i < 16; ++i) {
        const int32_t last = t.last[16 * block + i];
        t.block_last[block] = last > t.block_last[block] ? last : t.block_last[block];
      }
  }
}

template <Blend kBlend, int kFixed, bool kAbs>
void tile_vjp(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const TilePlace& place,
              TileState& t, Lanes* v_color_sums, float* records, int record_size) {
  load_tile<kBlend, kFixed>(p, g, place, t);
  for (int64_t e = place.end - 1; e >= place.begin; --e) {
    const int32_t entry = int32_t(e - place.begin);
    uint32_t blocks = uint16_t(p.lists.masks[e]);
    if constexpr (kBlend == Blend::kAlpha) {
      uint32_t reached = 0;
      for (int b = 0; b < kBlocks; ++b) reached |= uint32_t(t.block_last[b] >= entry) << b;
      blocks &= reached;
    }
    float* record = records + int64_t(p.lists.slots[e]) * record_size;
    if (blocks == 0) {
      std::memset(record, 0, sizeof(float) * record_size);
      continue;
    }
    const int64_t s = p.lists.entries[e];
    entry_vjp<kBlend, kFixed, kAbs>(p, splats[s], place, entry, blocks, p.colors + s * p.channels, t, v_color_sums,
                                    record);
  }
}

// Sums a splat's records and turns the moments into gradients.
template <bool kAbs>
void sum_records(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const float* records,
                 int record_size, int64_t begin, int64_t end) {
  Scratch<float> total(record_size);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t from = p.lists.splat_offsets[s], to = p.lists.splat_offsets[s + 1];
    std::memset(total, 0, sizeof(float) * record_size);
    for (int64_t slot = from; slot < to; ++slot)
      for (int i = 0; i < record_size; ++i) total[i] += records[slot * record_size + i];
    SplatGradient v{};
    if (to > from) {
      const SplatMoments m{total[0], total[1], total[2], total[3], total[4], total[5]};
      v = splat_vjp(splats[s], m, p.splats.opacities[s]);
    }
    g.v_means2d[2 * s] = v.x;
    g.v_means2d[2 * s + 1] = v.y;
    g.v_conics[3 * s] = v.a;
    g.v_conics[3 * s + 1] = v.b;
    g.v_conics[3 * s + 2] = v.c;
    g.v_opacities[s] = v.opacity;
    for (int d = 0; d < p.channels; ++d) g.v_colors[s * p.channels + d] = total[kMoments + d];
    if constexpr (kAbs) {
      const float scale = to > from ? kTwoLn2 : 0.0f;
      g.v_means2d_abs[2 * s] = to > from ? scale * splats[s].ux * total[kMoments + p.channels] : 0.0f;
      g.v_means2d_abs[2 * s + 1] = scale * total[kMoments + p.channels + 1];
    }
  }
}

template <Blend kBlend, int kFixed, bool kAbs>
void backward(const RasterizeParams& p, const RasterizeGrads& g) {
  const Splats splats(p.splats, p.cutoff);
  const int64_t tiles = p.cameras * p.grid.tiles();
  const int record_size = kMoments + p.channels + (kAbs ? 2 : 0);
  Scratch<float> records(p.lists.tile_offsets[tiles] * record_size);
  parallel_for(tiles, kTilesAtOnce, [&](int64_t b, int64_t e) {
    Scratch<float> v_color(int64_t(p.channels) * kPixels);
    Scratch<Lanes> v_color_sums(p.channels);
    TileState t;
    t.v_color = v_color;
    for (int64_t i = b; i < e; ++i) {
      const TilePlace place = tile_place(p, i);
      if (place.begin < place.end)
        tile_vjp<kBlend, kFixed, kAbs>(p, g, splats.data, place, t, v_color_sums, records, record_size);
    }
  });
  parallel_for(p.splats.count, 1024, [&](int64_t b, int64_t e) {
    sum_records<kAbs>(p, g, splats.data, records, record_size, b, e);
  });
}

template <Blend kBlend, int kFixed>
void backward(const RasterizeParams& p, const RasterizeGrads& g) {
  g.v_means2d_abs ? backward<kBlend, kFixed, true>(p, g) : backward<kBlend, kFixed, false>(p, g);
}

template <Blend kBlend>
void backward(const RasterizeParams& p, const RasterizeGrads& g) {
  switch (p.channels) {
    case 1: return backward<kBlend, 1>(p, g);
    case 3: return backward<kBlend, 3>(p, g);
    case 4: return backward<kBlend, 4>(p, g);
    default: return backward<kBlend, 0>(p, g);
  }
}

}  // namespace

void rasterize_backward(const RasterizeParams& p, const RasterizeGrads& g) {
  switch (p.blend) {
    case Blend::kAlpha: return backward<Blend::kAlpha>(p, g);
    case Blend::kSum: return backward<Blend::kSum>(p, g);
    case Blend::kTopK: return backward<Blend::kTopK>(p, g);
  }
}

}  // namespace splat::cpu::SPLAT_ISA
