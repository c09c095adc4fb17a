// How tiles are shared out to the blocks of the blending kernels.
//
// A block for each tile, the longest list first, so that no long one starts when all others are done. Where tiles are too
// few to fill a GPU, long lists are cut into parts, a block for each: every part leaves a partial picture of its tile, and
// those are put together afterwards. The transmittance at a part's start is the product of what the parts before it let
// through, which a first pass over them finds.
#pragma once
#include "binning.h"

namespace splat::cuda {

struct Sharing {
  int32_t longest;  // entries that a block takes at most; 0: whole tiles
  bool by_length;   // longest first; else in order
};
// What pays for these lists, by what the host knows of them.
SPLAT_CUDA_API Sharing share_tiles(const RasterizeParams& p);

// What a block does: part `part` of `parts` of a tile's list.
struct Part {
  int32_t tile, part, parts;  // tile of all images, or -1: nothing
  int32_t slot;               // of its partial picture, where there are several parts; those of a tile lie together
};

struct Work {
  const Part* parts;  // [count], or null: tile i is block i's
  int64_t count;      // blocks
  int32_t longest;
  float* pictures;    // [count, channels + 2, 256]: colours, transmittance (negative where the pixel stopped), last entry
  float* through;     // [count, 256]: what a part lets through, were it alone
  bool split() const { return longest > 0; }
};
SPLAT_HD int64_t picture_size(int channels) { return int64_t(channels + 2) * kTile * kTile; }

SPLAT_CUDA_API Work share(const RasterizeParams& p, const Sharing& sharing, const Arena& arena, cudaStream_t stream);

}  // namespace splat::cuda
