// Gradients of the image. As in the forward pass a tile's entries are taken 64 at a time, here last to first, and each
// 4x4 block runs through those that touch it with its pixels' state in registers. An entry's sums over the tile are kept
// as registers of partial sums (in L1) until the piece is done; then each entry writes one record at its slot. The records
// of a splat are summed in the order of its tiles, so that the result has the same bits for any number of threads.
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

// w where the forward pass drew the entry at this register's pixels, else 0.
template <Blend kBlend>
SPLAT_HD Lanes drawn(Lanes w, int32_t entry, IntVector last, Lanes kth) {
  const Mask before = {last >= entry - IntVector{}};
  if constexpr (kBlend == Blend::kAlpha) return keep(before, w);
  if constexpr (kBlend == Blend::kTopK) return keep((w > kth) | ((w == kth) & before), w);
  return w;
}

// One block through the piece's entries in `bits`, last to first. sums: [kPiece][size], laid out as a record.
template <Blend kBlend, int kFixed, bool kAbs>
void block_vjp(const Piece<kFixed>& piece, uint64_t bits, int block, int32_t first, Lanes cutoff, int channels,
               TileState& t, Lanes* sums, int size) {
  Lanes weights[kPiece * kParts];
  block_weights(piece, bits, block, cutoff, weights);
  PixelCentres centres[kParts];
  Lanes T[kParts], behind[kParts], scale[kParts], kth[kParts];
  IntVector last[kParts];
  for (int part = 0; part < kParts; ++part) {
    const int at = 16 * block + kLanes * part;
    centres[part] = pixel_centres(block, part);
    T[part] = load(t.T + at);
    behind[part] = load(t.behind + at);
    scale[part] = load(t.scale + at);
    kth[part] = load(t.kth + at);
    last[part] = load_int(t.last + at);
  }
  for (const Lanes* w = weights + (__builtin_popcountll(bits) - 1) * kParts; bits != 0; w -= kParts) {
    const int k = 63 - __builtin_clzll(bits);
    bits ^= uint64_t{1} << k;
    const LocalSplat& s = piece.entries[k].splat;
    const float* color = piece.entries[k].color();
    Lanes* sum = sums + k * size;
    Lanes m[kMoments], c[kFixed ? kFixed : 1], abs_x(0.0f), abs_y(0.0f);
    for (Lanes& x : m) x = Lanes(0.0f);
    for (Lanes& x : c) x = Lanes(0.0f);
    for (int part = 0; part < kParts; ++part) {
      const float* v_color = t.v_color + 16 * block + kLanes * part;
      Lanes vc = load(v_color) * Lanes(color[0]);
      for (int d = 1; d < channels; ++d) vc += load(v_color + d * kPixels) * Lanes(color[d]);
      const Lanes raw = drawn<kBlend>(w[part], first + k, last[part], kth[part]);
      Lanes weight, g;
      if constexpr (kBlend == Blend::kAlpha) {
        g = alpha_step_vjp(raw, vc, T[part], behind[part], weight);
      } else {
        weight = kBlend == Blend::kTopK ? raw * scale[part] : raw;
        g = order_free_vjp(weight, vc, behind[part]);
      }
      for (int d = 0; d < channels; ++d) {
        const Lanes v = weight * load(v_color + d * kPixels);
        if constexpr (kFixed > 0)
          c[d] += v;
        else
          sum[kMoments + d] += v;
      }
      const Lanes u = splat_u(s, centres[part].x, centres[part].y), v = splat_v(s, centres[part].y);
      const Lanes g_u = g * u, g_v = g * v;
      m[0] += g;
      m[1] += g_u;
      m[2] += g_v;
      m[3] += g_u * u;
      m[4] += g_u * v;
      m[5] += g_v * v;
      if constexpr (kAbs) {
        abs_x += absolute(g_u);
        abs_y += absolute(Lanes(s.uy) * g_u + Lanes(s.vy) * g_v);
      }
    }
    for (int i = 0; i < kMoments; ++i) sum[i] += m[i];
    for (int d = 0; d < kFixed; ++d) sum[kMoments + d] += c[d];
    if constexpr (kAbs) {
      sum[kMoments + channels] += abs_x;
      sum[kMoments + channels + 1] += abs_y;
    }
  }
  for (int part = 0; part < kParts; ++part) {
    store(t.T + 16 * block + kLanes * part, T[part]);
    store(t.behind + 16 * block + kLanes * part, behind[part]);
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

// Adds up the registers of partial sums of each entry of a piece and writes its record.
SPLAT_HD void write_records(const RasterizeParams& p, int64_t first, int count, const Lanes* sums, int size,
                            int record_size, float* records) {
  for (int k = 0; k < count; ++k) {
    const Lanes* sum = sums + k * size;
    float* record = records + int64_t(p.lists.slots[first + k]) * record_size;
    for (int i = 0; i < record_size; i += 4) {
      float out[4];
      sum4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3], out);
      for (int j = 0; j < 4 && i + j < record_size; ++j) record[i + j] = out[j];
    }
  }
}

template <Blend kBlend, int kFixed, bool kAbs>
void tile_vjp(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const TilePlace& place,
              TileState& t, Lanes* sums, float* records) {
  load_tile<kBlend, kFixed>(p, g, place, t);
  const int channels = kFixed ? kFixed : p.channels;
  const int record_size = kMoments + channels + (kAbs ? 2 : 0), size = (record_size + 3) / 4 * 4;
  const Lanes cutoff(log2_fast(p.cutoff));
  Piece<kFixed> piece;
  uint64_t bits[kBlocks];
  int64_t end = place.end;
  while (end > place.begin) {
    const int64_t first = place.begin + (end - 1 - place.begin) / kPiece * kPiece;
    const int count = int(end - first);
    const int32_t in_tile = int32_t(first - place.begin);
    end = first;
    entries_by_block(p.lists.masks + first, count, bits);
    uint64_t reached = 0;
    for (int block = 0; block < kBlocks; ++block) {
      const int64_t drawn = int64_t(t.block_last[block]) - in_tile + 1;  // entries of the piece up to the block's last
      bits[block] &= drawn >= kPiece ? ~uint64_t{0} : (drawn <= 0 ? 0 : (uint64_t{1} << drawn) - 1);
      reached |= bits[block];
    }
    if (reached == 0) {
      for (int k = 0; k < count; ++k)
        std::memset(records + int64_t(p.lists.slots[first + k]) * record_size, 0, sizeof(float) * record_size);
      continue;
    }
    piece.gather(p, splats, place, first, count);
    prefetch_entries(p, splats, first - kPiece > 0 ? first - kPiece : 0, first);
    std::memset(static_cast<void*>(sums), 0, sizeof(Lanes) * size * count);
    for (int block = 0; block < kBlocks; ++block)
      if (bits[block] != 0)
        block_vjp<kBlend, kFixed, kAbs>(piece, bits[block], block, in_tile, cutoff, channels, t, sums, size);
    write_records(p, first, count, sums, size, record_size, records);
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
    Scratch<Lanes> sums(int64_t(kPiece) * (record_size + 3));
    TileState t;
    t.v_color = v_color;
    for (int64_t i = b; i < e; ++i) {
      const TilePlace place = tile_place(p, i);
      if (place.begin < place.end)
        tile_vjp<kBlend, kFixed, kAbs>(p, g, splats.data, place, t, sums, records);
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
