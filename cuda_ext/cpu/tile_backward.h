// One tile, backward. Each entry writes one record of sums over the tile's pixels at its slot; the records of a splat are
// summed in the order of its tiles, so that the result has the same bits for any number of threads.
#pragma once
#include <cstring>

#include "splat/records.h"
#include "tile.h"

namespace splat::cpu::SPLAT_ISA {

struct BackwardState {
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

// What the entries' gradients are made of: records of moments, colours and absolute sums, padded to whole groups of four.
struct Records {
  float* data;  // [M][size]
  int size;
  static constexpr SPLAT_HD int size_for(int channels, bool abs) { return (kMoments + channels + (abs ? 2 : 0) + 3) / 4 * 4; }
  SPLAT_HD float* of(const RasterizeParams& p, int64_t entry) const { return data + int64_t(p.lists.slots[entry]) * size; }
};

// Adds up an entry's registers of partial sums and writes its record.
SPLAT_HD void write_record(const Lanes* sum, int size, float* record) {
  for (int i = 0; i < size; i += 4) sum4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3], record + i);
}

// Sums over pixels that an entry's gradient is made of, one register of partial sums each.
template <int kFixed, bool kAbs>
struct EntrySums {
  Lanes moments[kMoments], fixed[kFixed ? kFixed : 1], absolute_sums[2];
  SPLAT_HD EntrySums() {
    for (Lanes& x : moments) x = Lanes(0.0f);
    for (Lanes& x : fixed) x = Lanes(0.0f);
    for (Lanes& x : absolute_sums) x = Lanes(0.0f);
  }
  // g = dL/d(ln weight) at a register's pixels; record: where the colours of a run-time number of channels are summed.
  SPLAT_HD void add(const LocalSplat& s, const PixelCentres& centre, Lanes weight, Lanes g, const float* v_color,
                    int channels, Lanes* record) {
    for (int d = 0; d < channels; ++d) {
      const Lanes v = weight * load(v_color + d * kPixels);
      if constexpr (kFixed > 0)
        fixed[d] += v;
      else
        record[kMoments + d] += v;
    }
    const PixelShare<Lanes> share = pixel_share(s, centre.x, centre.y, g);
    for (int i = 0; i < kMoments; ++i) moments[i] += share.moments[i];
    if constexpr (kAbs)
      for (int i = 0; i < 2; ++i) absolute_sums[i] += share.absolutes[i];
  }
  // Sets a record in registers; run-time channels have been summed there already.
  SPLAT_HD void set(Lanes* record, int channels) const {
    for (int i = 0; i < kMoments; ++i) record[i] = moments[i];
    for (int d = 0; d < kFixed; ++d) record[kMoments + d] = fixed[d];
    if constexpr (kAbs) {
      record[kMoments + channels] = absolute_sums[0];
      record[kMoments + channels + 1] = absolute_sums[1];
    }
  }
  // Adds to a record in registers.
  SPLAT_HD void add_to(Lanes* record, int channels) const {
    for (int i = 0; i < kMoments; ++i) record[i] += moments[i];
    for (int d = 0; d < kFixed; ++d) record[kMoments + d] += fixed[d];
    if constexpr (kAbs) {
      record[kMoments + channels] += absolute_sums[0];
      record[kMoments + channels + 1] += absolute_sums[1];
    }
  }
};

// Start plus colour . dL/dcolour at a register's pixels.
SPLAT_HD Lanes dot_color(Lanes start, const float* color, const float* v_color, int channels) {
  for (int d = 0; d < channels; ++d) start += load(v_color + d * kPixels) * Lanes(color[d]);
  return start;
}

// alpha: one block through the piece's entries in `bits`, last to first, with the pixels' state in registers.
// sums: [kPiece][size], laid out as a record.
template <int kFixed, bool kAbs>
void block_vjp(const Piece<kFixed>& piece, uint64_t bits, int block, int32_t first, Lanes cutoff, int channels,
               BackwardState& t, Lanes* sums, int size) {
  Lanes weights[kPiece * kParts];
  block_weights(piece, bits, block, cutoff, weights);
  PixelCentres centres[kParts];
  Lanes T[kParts], behind[kParts];
  IntVector last[kParts];
  for (int part = 0; part < kParts; ++part) {
    const int at = 16 * block + kLanes * part;
    centres[part] = pixel_centres(block, part);
    T[part] = load(t.T + at);
    behind[part] = load(t.behind + at);
    last[part] = load_int(t.last + at);
  }
  for (const Lanes* w = weights + (__builtin_popcountll(bits) - 1) * kParts; bits != 0; w -= kParts) {
    const int k = 63 - __builtin_clzll(bits);
    bits ^= uint64_t{1} << k;
    Lanes* sum = sums + k * size;
    EntrySums<kFixed, kAbs> entry;
    for (int part = 0; part < kParts; ++part) {
      const float* v_color = t.v_color + 16 * block + kLanes * part;
      const Lanes vc = dot_color(Lanes(0.0f), piece.entries[k].color(), v_color, channels);
      const Lanes raw = drawn<Blend::kAlpha>(w[part], first + k, last[part], Lanes(0.0f));
      Lanes weight;
      const Lanes g = alpha_step_vjp(raw, vc, T[part], behind[part], weight);
      entry.add(piece.entries[k].splat, centres[part], weight, g, v_color, channels, sum);
    }
    entry.add_to(sum, channels);
  }
  for (int part = 0; part < kParts; ++part) {
    store(t.T + 16 * block + kLanes * part, T[part]);
    store(t.behind + 16 * block + kLanes * part, behind[part]);
  }
}

// sum, topk: pixels carry no state from entry to entry, so an entry goes through its blocks with its sums in registers.
// kept: the entry's weights, or null to compute them. scratch: [size] for run-time channels.
template <Blend kBlend, int kFixed, bool kAbs>
SPLAT_HD void entry_vjp(const typename Piece<kFixed>::Entry& entry, uint32_t mask, int32_t index, Lanes cutoff,
                        int channels, const BackwardState& t, const float* kept, Lanes* scratch, float* record) {
  constexpr int kSize = Records::size_for(kFixed, kAbs);
  EntrySums<kFixed, kAbs> sums;
  if constexpr (kFixed == 0)
    for (int i = 0; i < Records::size_for(channels, kAbs); ++i) scratch[i] = Lanes(0.0f);
  for (; mask != 0; mask &= mask - 1)
    for (int part = 0; part < kParts; ++part) {
      const int at = 16 * __builtin_ctz(mask) + kLanes * part;
      const PixelCentres centre = {load(kCentres.x + at), load(kCentres.y + at)};
      const Lanes raw = kept != nullptr ? load(kept + at) : splat_weight(entry.splat, centre, cutoff);
      Lanes weight = raw;
      if constexpr (kBlend == Blend::kTopK)
        weight = drawn<kBlend>(raw, index, load_int(t.last + at), load(t.kth + at)) * load(t.scale + at);
      const Lanes g = order_free_vjp(weight, dot_color(load(t.behind + at), entry.color(), t.v_color + at, channels));
      sums.add(entry.splat, centre, weight, g, t.v_color + at, channels, scratch);
    }
  if constexpr (kFixed > 0) {
    Lanes all[kSize];
    for (int i = kSize - 3; i < kSize; ++i) all[i] = Lanes(0.0f);
    sums.set(all, kFixed);
    write_record(all, kSize, record);
  } else {
    sums.set(scratch, channels);
    write_record(scratch, Records::size_for(channels, kAbs), record);
  }
}

// Loads a tile's pixels; those outside the picture get zero gradient.
template <Blend kBlend, int kFixed>
void load_tile(const RasterizeParams& p, const RasterizeGrads& g, const TilePlace& place, BackwardState& t) {
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
  Scratch<float> zeros(g.v_image ? 0 : channels);
  for (int d = 0; !g.v_image && d < channels; ++d) zeros[d] = 0.0f;
  for_pixels(p, place, [&](int in, int64_t from) __attribute__((always_inline)) {
    float v_background = 0.0f, v_image = 0.0f;  // dL/dC . background, dL/dC . C
    const float* v = g.v_image ? g.v_image + from * channels : zeros.data;
    for (int d = 0; d < channels; ++d) t.v_color[d * kPixels + in] = v[d];
    if constexpr (kBlend == Blend::kAlpha)
      if (background)
        for (int d = 0; d < channels; ++d) v_background += v[d] * background[d];
    if constexpr (kBlend == Blend::kTopK)
      for (int d = 0; d < channels; ++d) v_image += v[d] * p.image[from * channels + d];
    const float v_alpha = g.v_alphas ? g.v_alphas[from] : 0.0f;
    PixelFinish finish{};
    if constexpr (kBlend == Blend::kAlpha) {
      t.T[in] = finish.behind = p.norm[from];
      t.last[in] = p.last[from];
    } else if constexpr (kBlend == Blend::kTopK) {
      const int64_t norm = from + place.camera * plane;
      t.kth[in] = p.norm[norm];
      finish.scale = p.norm[norm + plane];
      finish.behind = kTopKEpsilon * finish.scale;
      t.last[in] = p.last[from];
      t.scale[in] = finish.scale;
    }
    t.behind[in] = finish_vjp<kBlend>(finish, v_alpha, v_background, v_image);
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

// alpha. sums: [kPiece][size of a record].
template <int kFixed, bool kAbs>
void alpha_tile_vjp(const RasterizeParams& p, const Splat2D* splats, const TilePlace& place, BackwardState& t,
                    Lanes* sums, const Records& records) {
  const int channels = kFixed ? kFixed : p.channels, size = records.size;
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
      for (int k = 0; k < count; ++k) std::memset(records.of(p, first + k), 0, sizeof(float) * size);
      continue;
    }
    piece.gather(p, splats, place, first, count);
    prefetch_entries(p, splats, first - kPiece > 0 ? first - kPiece : 0, first);
    std::memset(static_cast<void*>(sums), 0, sizeof(Lanes) * size * count);
    for (int block = 0; block < kBlocks; ++block)
      if (bits[block] != 0)
        block_vjp<kFixed, kAbs>(piece, bits[block], block, in_tile, cutoff, channels, t, sums, size);
    for (int k = 0; k < count; ++k) write_record(sums + k * size, size, records.of(p, first + k));
  }
}

// sum, topk. kept: the weights of the tile's entries [entries][kPixels], or null; scratch: [size of a record].
template <Blend kBlend, int kFixed, bool kAbs>
void order_free_tile_vjp(const RasterizeParams& p, const Splat2D* splats, const TilePlace& place,
                         const BackwardState& t, const float* kept, Lanes* scratch, const Records& records) {
  const Lanes cutoff(log2_fast(p.cutoff));
  Piece<kFixed> piece;
  for (int64_t first = place.begin; first < place.end; first += kPiece) {
    const int count = int(place.end - first < kPiece ? place.end - first : kPiece);
    const int64_t ahead = first + count;
    piece.gather(p, splats, place, first, count);
    prefetch_entries(p, splats, ahead, ahead + kPiece < p.lists.count ? ahead + kPiece : p.lists.count);
    for (int k = 0; k < count; ++k) __builtin_prefetch(records.of(p, first + k), 1);
    for (int k = 0; k < count; ++k) {
      const int32_t index = int32_t(first - place.begin) + k;
      entry_vjp<kBlend, kFixed, kAbs>(piece.entries[k], uint16_t(p.lists.masks[first + k]), index, cutoff,
                                      kFixed ? kFixed : p.channels, t, kept ? kept + int64_t(index) * kPixels : nullptr,
                                      scratch, records.of(p, first + k));
    }
  }
}

// Sums a splat's records and turns the moments into gradients.
template <int kFixed, bool kAbs>
void sum_records(const RasterizeParams& p, const RasterizeGrads& g, const Splat2D* splats, const Records& records,
                 int64_t begin, int64_t end) {
  const int channels = kFixed ? kFixed : p.channels, size = record_size(channels, kAbs);
  Scratch<float> total(size);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t from = p.lists.splat_offsets[s], to = p.lists.splat_offsets[s + 1];
    for (int i = 0; i < size; ++i) total[i] = 0.0f;
    for (int64_t slot = from; slot < to; ++slot)
      for (int i = 0; i < size; ++i) total[i] += records.data[slot * records.size + i];
    write_splat_gradients(p, g, splats, s, channels, [&](int k) __attribute__((always_inline)) { return total[k]; });
  }
}

}  // namespace splat::cpu::SPLAT_ISA
