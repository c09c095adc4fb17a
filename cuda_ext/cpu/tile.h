// What the forward and the backward pass over a tile share: the pixels' order, the entries in pieces of 64, the channels.
//
// A tile is 4x4 blocks of 4x4 pixels; pixel p = 16 * block + 4 * row + column, so that a block's pixels are adjacent and
// one register of lanes is a block (AVX-512), half of one (AVX2) or a row of one (SSE, NEON).
#pragma once
#include <cstdint>

#include "kernels.h"
#include "lanes.h"
#include "parallel.h"
#include "scratch.h"
#include "splat/blend.h"
#include "splat/params.h"

namespace splat::cpu::SPLAT_ISA {

constexpr int kPixels = kTile * kTile;
constexpr int kBlocks = kPixels / 16;
constexpr int kParts = 16 / kLanes;  // registers in a block
constexpr int kPiece = 64;           // entries handled together
constexpr int64_t kTilesAtOnce = 4;  // tiles in a piece of parallel work

// The number of channels as a compile-time constant where it is a common one, else 0 ("read p.channels").
template <int kCount>
struct Fixed {
  static constexpr int value = kCount;
};
template <class F>
SPLAT_HD void with_channels(int channels, F&& body) {
  switch (channels) {
    case 1: return body(Fixed<1>{});
    case 3: return body(Fixed<3>{});
    case 4: return body(Fixed<4>{});
    default: return body(Fixed<0>{});
  }
}
// The same for the compositor.
template <Blend kValue>
struct FixedBlend {
  static constexpr Blend value = kValue;
};
template <class F>
SPLAT_HD void with_blend(Blend blend, F&& body) {
  switch (blend) {
    case Blend::kAlpha: return body(FixedBlend<Blend::kAlpha>{});
    case Blend::kSum: return body(FixedBlend<Blend::kSum>{});
    case Blend::kTopK: return body(FixedBlend<Blend::kTopK>{});
  }
}

// Coordinates of the tile's pixels within the tile, in their order.
struct CentreTable {
  alignas(64) float x[kPixels], y[kPixels];
  constexpr CentreTable() : x(), y() {
    for (int i = 0; i < kPixels; ++i) {
      x[i] = float(4 * (i >> 4 & 3) + (i & 3)) + 0.5f;
      y[i] = float(4 * (i >> 6) + (i >> 2 & 3)) + 0.5f;
    }
  }
};
constexpr CentreTable kCentres;

// Those of a register's pixels.
struct PixelCentres {
  Lanes x, y;
};
SPLAT_HD PixelCentres pixel_centres(int block, int part) {
  const int at = 16 * block + kLanes * part;
  return {load(kCentres.x + at), load(kCentres.y + at)};
}

// Where a tile lies: its camera, its corner, its entries.
struct TilePlace {
  int32_t camera, x0, y0;
  int64_t begin, end;
};
SPLAT_HD TilePlace tile_place(const RasterizeParams& p, int64_t index) {
  const int64_t tiles = p.grid.tiles();
  const int32_t in_image = int32_t(index % tiles);
  return {int32_t(index / tiles), in_image % p.grid.tiles_x() * kTile, in_image / p.grid.tiles_x() * kTile,
          p.lists.tile_offsets[index], p.lists.tile_offsets[index + 1]};
}

// Calls body(first pixel in the tile, first pixel in the image, count) for the tile's pixels inside the picture, by pieces of
// a row that are adjacent in both: four pixels but at the picture's edge.
template <class F>
SPLAT_HD void for_quads(const RasterizeParams& p, const TilePlace& place, F&& body) {
  const int64_t image = int64_t(place.camera) * p.grid.width * p.grid.height;
  const int rows = p.grid.height - place.y0 < kTile ? p.grid.height - place.y0 : kTile;
  const int columns = p.grid.width - place.x0 < kTile ? p.grid.width - place.x0 : kTile;
  for (int y = 0; y < rows; ++y) {
    const int in = 64 * (y >> 2) + 4 * (y & 3);
    const int64_t at = image + int64_t(place.y0 + y) * p.grid.width + place.x0;
    for (int x = 0; x < columns; x += 4) body(in + 4 * x, at + x, columns - x < 4 ? columns - x : 4);
  }
}
// Calls body(pixel in the tile, pixel in the image).
template <class F>
SPLAT_HD void for_pixels(const RasterizeParams& p, const TilePlace& place, F&& body) {
  for_quads(p, place, [&](int in, int64_t at, int count) __attribute__((always_inline)) {
    if (count == 4) {  // the usual case, unrolled
      body(in, at);
      body(in + 1, at + 1);
      body(in + 2, at + 2);
      body(in + 3, at + 3);
    } else {
      for (int i = 0; i < count; ++i) body(in + i, at + i);
    }
  });
}

// Splats ready to blend, for all cameras.
struct Splats {
  Scratch<Splat2D> data;
  explicit Splats(const SplatArrays& a, float cutoff) : data(a.count) {
    const float log2_cutoff = log2_fast(cutoff);
    Splat2D* out = data;
    parallel_for(a.count, 4096, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        out[i] = make_splat(a.means2d[2 * i], a.means2d[2 * i + 1], a.conics[3 * i], a.conics[3 * i + 1],
                            a.conics[3 * i + 2], a.opacities[i], log2_cutoff);
    });
  }
};

// Up to 64 entries of a tile, gathered side by side. kFixed channels, or p.channels where it is 0.
template <int kFixed>
struct Piece {
  struct Entry {
    LocalSplat splat;
    float fixed[kFixed ? kFixed : 1];
    const float* any;
    SPLAT_HD const float* color() const { return kFixed ? fixed : any; }
  };
  Entry entries[kPiece];

  SPLAT_HD void gather(const RasterizeParams& p, const Splat2D* all, const TilePlace& place, int64_t first, int count) {
    const int64_t channels = kFixed ? kFixed : p.channels;
    for (int k = 0; k < count; ++k) {
      const int64_t s = p.lists.entries[first + k];
      entries[k].splat = localize(all[s], float(place.x0), float(place.y0));
      if constexpr (kFixed > 0)
        for (int d = 0; d < kFixed; ++d) entries[k].fixed[d] = p.colors[s * channels + d];
      else
        entries[k].any = p.colors + s * channels;
    }
  }
};

// Asks for the splats of the entries [begin, end): they lie all over memory, and waiting for them was a fifth of the time.
SPLAT_HD void prefetch_entries(const RasterizeParams& p, const Splat2D* all, int64_t begin, int64_t end) {
  for (int64_t e = begin; e < end; ++e) {
    const int64_t s = p.lists.entries[e];
    __builtin_prefetch(all + s);
    __builtin_prefetch(p.colors + s * p.channels);
  }
}

// bits[b]: which of the piece's entries touch block b. Transposes 64 masks of 16 bits, eight by eight.
SPLAT_HD void entries_by_block(const int16_t* masks, int count, uint64_t* bits) {
  uint8_t bytes[kBlocks][8] = {};
  for (int k = 0; k < count; k += 8) {
    uint64_t low = 0, high = 0;
    for (int i = 0; i < 8 && k + i < count; ++i) {
      const uint64_t m = uint16_t(masks[k + i]);
      low |= (m & 255) << (8 * i);
      high |= (m >> 8) << (8 * i);
    }
    const auto transpose = [](uint64_t x) {  // 8x8 bits, Hacker's Delight 7-3
      uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
      x ^= t ^ (t << 7);
      t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
      x ^= t ^ (t << 14);
      t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
      return x ^ t ^ (t << 28);
    };
    low = transpose(low);
    high = transpose(high);
    for (int b = 0; b < 8; ++b) {
      bytes[b][k / 8] = uint8_t(low >> (8 * b));
      bytes[b + 8][k / 8] = uint8_t(high >> (8 * b));
    }
  }
  for (int b = 0; b < kBlocks; ++b) {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word |= uint64_t(bytes[b][i]) << (8 * i);
    bits[b] = word;
  }
}

// The weight of a splat at a register's pixels; 0 under the cutoff.
SPLAT_HD Lanes splat_weight(const LocalSplat& s, const PixelCentres& centre, Lanes cutoff) {
  const Lanes e = log2_alpha(s, centre.x, centre.y);
  return keep(e >= cutoff, exp2_fast(e));
}

// The weights of a piece's entries in `bits` at a block's pixels (kParts registers an entry), in order. They do not depend
// on each other, so this loop runs at full speed, and what follows carries the pixels' state from entry to entry. In one
// loop, the chain from the exponent to the result is longer than what a processor keeps in flight (measured on the
// backward pass of alpha: a quarter slower).
template <int kFixed>
SPLAT_HD void block_weights(const Piece<kFixed>& piece, uint64_t bits, int block, Lanes cutoff, Lanes* out) {
  PixelCentres centres[kParts];
  for (int part = 0; part < kParts; ++part) centres[part] = pixel_centres(block, part);
  for (; bits != 0; bits &= bits - 1) {
    const LocalSplat& s = piece.entries[__builtin_ctzll(bits)].splat;
    for (const PixelCentres& centre : centres) *out++ = splat_weight(s, centre, cutoff);
  }
}

}  // namespace splat::cpu::SPLAT_ISA
