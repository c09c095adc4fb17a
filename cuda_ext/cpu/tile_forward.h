// One tile, forward. Entries are taken 64 at a time; within a piece each 4x4 block runs through the entries that touch it
// with its pixels' state in registers.
#pragma once
#include <cstring>

#include "tile.h"

namespace splat::cpu::SPLAT_ISA {

// State of a tile between pieces. `color` is [channels][kPixels].
struct ForwardState {
  alignas(64) float value[kPixels];  // alpha: transmittance; sum and topk: sum of weights
  alignas(64) int32_t last[kPixels];
  float* color;
  float* top_weights;    // topk: [K][kPixels], largest first
  int32_t* top_entries;  // topk: [K][kPixels]
};

struct AlphaState {
  Lanes T;
  IntVector last;
  SPLAT_HD AlphaState(const ForwardState& t, int p) : T(load(t.value + p)), last(load_int(t.last + p)) {}
  SPLAT_HD void save(ForwardState& t, int p) const {
    store(t.value + p, T);
    store_int(t.last + p, last);
  }
  SPLAT_HD Lanes step(Lanes raw, int32_t entry) {
    const Lanes weight = alpha_step(raw, T);
    last = select_int(weight > Lanes(0.0f), entry - IntVector{}, last);
    return weight;
  }
  SPLAT_HD bool open() const { return any(T > Lanes(0.0f)); }
};

// Adds weight * colour to a register's pixels: in registers for a fixed number of channels, else in the tile's planes.
template <int kFixed>
SPLAT_HD void add_color(Lanes weight, const float* color, int channels, Lanes* fixed, float* planes) {
  for (int d = 0; d < kFixed; ++d) fixed[d] += weight * Lanes(color[d]);
  if constexpr (kFixed == 0)
    for (int d = 0; d < channels; ++d) {
      float* c = planes + d * kPixels;
      store(c, load(c) + weight * Lanes(color[d]));
    }
}

// alpha: front to back. Returns whether a pixel still takes splats.
template <int kFixed>
SPLAT_HD bool blend_block(const Piece<kFixed>& piece, uint64_t bits, int block, int32_t first, Lanes cutoff,
                          int channels, ForwardState& tile) {
  Lanes weights[kPiece * kParts];
  block_weights(piece, bits, block, cutoff, weights);
  bool open = false;
  for (int part = 0; part < kParts; ++part) {
    const int p = 16 * block + kLanes * part;
    AlphaState state(tile, p);
    Lanes color[kFixed ? kFixed : 1];
    for (int d = 0; d < kFixed; ++d) color[d] = load(tile.color + d * kPixels + p);
    const Lanes* raw = weights + part;
    for (uint64_t left = bits; left != 0; left &= left - 1, raw += kParts) {
      const int k = __builtin_ctzll(left);
      const Lanes weight = state.step(*raw, first + k);
      add_color<kFixed>(weight, piece.entries[k].color(), channels, color, tile.color + p);
    }
    for (int d = 0; d < kFixed; ++d) store(tile.color + d * kPixels + p, color[d]);
    state.save(tile, p);
    open |= state.open();
  }
  return open;
}

// sum: nothing is carried but the sums, so weights and sums go in one loop. With kKeep the weights are also written to
// kept [entries of the piece][kPixels], for a backward pass that follows at once.
template <int kFixed, bool kKeep>
SPLAT_HD void sum_block(const Piece<kFixed>& piece, uint64_t bits, int block, Lanes cutoff, int channels,
                        ForwardState& tile, float* kept) {
  for (int part = 0; part < kParts; ++part) {
    const int p = 16 * block + kLanes * part;
    const PixelCentres centre = pixel_centres(block, part);
    Lanes total = load(tile.value + p), color[kFixed ? kFixed : 1];
    for (int d = 0; d < kFixed; ++d) color[d] = load(tile.color + d * kPixels + p);
    for (uint64_t left = bits; left != 0; left &= left - 1) {
      const int k = __builtin_ctzll(left);
      const Lanes weight = splat_weight(piece.entries[k].splat, centre, cutoff);
      if constexpr (kKeep) store(kept + k * kPixels + p, weight);
      total += weight;
      add_color<kFixed>(weight, piece.entries[k].color(), channels, color, tile.color + p);
    }
    for (int d = 0; d < kFixed; ++d) store(tile.color + d * kPixels + p, color[d]);
    store(tile.value + p, total);
  }
}

// Keeps the K largest weights of each pixel, largest first; of equal weights the earlier entry.
SPLAT_HD void insert_top(Lanes weight, int32_t entry, int K, float* weights, int32_t* entries) {
  if (!any(weight > load(weights + (K - 1) * kPixels))) return;
  IntVector index = entry - IntVector{};
  for (int k = 0; k < K; ++k) {
    const Lanes w = load(weights + k * kPixels);
    const IntVector e = load_int(entries + k * kPixels);
    const Mask larger = weight > w;
    store(weights + k * kPixels, select(larger, weight, w));
    store_int(entries + k * kPixels, select_int(larger, index, e));
    weight = select(larger, w, weight);
    index = select_int(larger, e, index);
  }
}

template <int kFixed>
SPLAT_HD void select_top(const Piece<kFixed>& piece, uint64_t bits, int block, int32_t first, Lanes cutoff, int K,
                         ForwardState& tile) {
  Lanes weights[kPiece * kParts];
  block_weights(piece, bits, block, cutoff, weights);
  const Lanes* weight = weights;
  for (; bits != 0; bits &= bits - 1)
    for (int part = 0; part < kParts; ++part) {
      const int p = 16 * block + kLanes * part;
      insert_top(*weight++, first + __builtin_ctzll(bits), K, tile.top_weights + p, tile.top_entries + p);
    }
}

// Colours of the selected splats (topk only): once per pixel, so plain scalar code.
SPLAT_HD void blend_top(const RasterizeParams& p, const TilePlace& place, ForwardState& tile) {
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    float total = 0.0f;
    for (int k = 0; k < p.topk; ++k) {
      const float w = tile.top_weights[k * kPixels + pixel];
      if (w <= 0.0f) break;
      total += w;
      const float* c = p.colors + int64_t(p.lists.entries[place.begin + tile.top_entries[k * kPixels + pixel]]) * p.channels;
      for (int d = 0; d < p.channels; ++d) tile.color[d * kPixels + pixel] += w * c[d];
    }
    tile.value[pixel] = total;
  }
}

// Writes `count` pixels that are adjacent in the tile (from `in`) and in the image (from `to`).
template <Blend kBlend, int kFixed>
SPLAT_HD void write_pixels(const RasterizeParams& p, const TilePlace& place, const ForwardState& tile, int in, int64_t to,
                           int count) {
  const int channels = kFixed ? kFixed : p.channels;
  PixelFinish finish[4];
  for (int i = 0; i < count; ++i) finish[i] = finish_pixel<kBlend>(tile.value[in + i]);
  for (int i = 0; i < count; ++i) p.alphas[to + i] = finish[i].alpha;
  if constexpr (kBlend == Blend::kAlpha) {
    for (int i = 0; i < count; ++i) p.norm[to + i] = finish[i].behind;
    for (int i = 0; i < count; ++i) p.last[to + i] = tile.last[in + i];
  } else if constexpr (kBlend == Blend::kTopK) {
    const int smallest = (p.topk - 1) * kPixels + in;
    const int64_t plane = int64_t(p.grid.width) * p.grid.height, norm = to + place.camera * plane;  // [C, 2, H, W]
    for (int i = 0; i < count; ++i) {
      p.norm[norm + i] = tile.top_weights[smallest + i];
      p.norm[norm + plane + i] = finish[i].scale;
      p.last[to + i] = tile.top_entries[smallest + i];
    }
  }
  const float* background = p.backgrounds ? p.backgrounds + int64_t(place.camera) * channels : nullptr;
  if (kFixed == 3 && kBlend != Blend::kTopK && background == nullptr && count == 4)
    return interleave3(tile.color + in, kPixels, p.image + 3 * to);  // scale is 1
  for (int i = 0; i < count; ++i)
    for (int d = 0; d < channels; ++d)
      p.image[(to + i) * channels + d] = tile.color[d * kPixels + in + i] * finish[i].scale +
                                         (background ? finish[i].behind * background[d] : 0.0f);
}

template <Blend kBlend, int kFixed>
void write_tile(const RasterizeParams& p, const TilePlace& place, const ForwardState& tile) {
  for_quads(p, place, [&](int in, int64_t to, int count) __attribute__((always_inline)) {
    if (count == 4)  // the usual case, unrolled
      write_pixels<kBlend, kFixed>(p, place, tile, in, to, 4);
    else
      write_pixels<kBlend, kFixed>(p, place, tile, in, to, count);
  });
}

template <Blend kBlend>
SPLAT_HD void clear_tile(const RasterizeParams& p, ForwardState& tile) {
  const int K = kBlend == Blend::kTopK ? p.topk : 0;
  std::memset(tile.color, 0, sizeof(float) * p.channels * kPixels);
  std::memset(tile.top_weights, 0, sizeof(float) * K * kPixels);
  for (int pixel = 0; pixel < K * kPixels; ++pixel) tile.top_entries[pixel] = INT32_MAX;
  for (int pixel = 0; pixel < kPixels; ++pixel) {
    tile.value[pixel] = kBlend == Blend::kAlpha ? 1.0f : 0.0f;
    tile.last[pixel] = -1;
  }
}

// kept: see sum_block, [entries of the tile][kPixels].
template <Blend kBlend, int kFixed, bool kKeep = false>
void blend_tile(const RasterizeParams& p, const Splat2D* splats, const TilePlace& place, ForwardState& tile,
                float* kept = nullptr) {
  const Lanes cutoff(log2_fast(p.cutoff));
  Piece<kFixed> piece;
  uint64_t bits[kBlocks];
  uint32_t open = 0xffff;  // blocks with a pixel that still takes splats
  for (int64_t first = place.begin; first < place.end && open != 0; first += kPiece) {
    const int count = int(place.end - first < kPiece ? place.end - first : kPiece);
    piece.gather(p, splats, place, first, count);
    const int64_t ahead = first + count;  // entries of consecutive tiles are adjacent
    prefetch_entries(p, splats, ahead, ahead + kPiece < p.lists.count ? ahead + kPiece : p.lists.count);
    entries_by_block(p.lists.masks + first, count, bits);
    const int32_t in_tile = int32_t(first - place.begin);
    float* kept_here = kKeep ? kept + int64_t(in_tile) * kPixels : nullptr;
    for (int block = 0; block < kBlocks; ++block) {
      if (bits[block] == 0 || !(open >> block & 1)) continue;
      bool still = true;
      if constexpr (kBlend == Blend::kTopK)
        select_top(piece, bits[block], block, in_tile, cutoff, p.topk, tile);
      else if constexpr (kBlend == Blend::kAlpha)
        still = blend_block(piece, bits[block], block, in_tile, cutoff, p.channels, tile);
      else
        sum_block<kFixed, kKeep>(piece, bits[block], block, cutoff, p.channels, tile, kept_here);
      if (!still) open &= ~(1u << block);
    }
  }
  if constexpr (kBlend == Blend::kTopK) blend_top(p, place, tile);
}

}  // namespace splat::cpu::SPLAT_ISA
