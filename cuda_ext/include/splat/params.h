// One plain struct per stage, passed by value to the kernels of every backend. Shapes as in torch/schema.cpp.
#pragma once
#include <cstdint>

#include "splat/constants.h"

namespace splat {

enum class Blend : int32_t { kAlpha = 0, kSum = 1, kTopK = 2 };

// Pixel size of the pictures, and their tiles.
struct TileGrid {
  int32_t width, height;
  int32_t tiles_x() const { return (width + kTile - 1) / kTile; }
  int32_t tiles_y() const { return (height + kTile - 1) / kTile; }
  int64_t tiles() const { return int64_t(tiles_x()) * tiles_y(); }
};

// Projected splats of all cameras, flat: index = camera * N + Gaussian.
struct SplatArrays {
  const float* means2d;    // [S, 2] pixels
  const float* conics;     // [S, 3]
  const float* opacities;  // [S]
  const int32_t* radii;    // [S, 2]; a splat with radius 0 is culled. Null: none is
  int64_t count;           // S
};

// The tile lists, as bin() returns them.
struct TileListArrays {
  const int64_t* tile_offsets;   // [C * tiles + 1]
  const int32_t* entries;        // [M] splat
  const int16_t* masks;          // [M] the 4x4 blocks of the tile that the splat touches
  const int64_t* splat_offsets;  // [S + 1]
  const int32_t* slots;          // [M] position of the entry when entries are grouped by splat
};

struct RasterizeParams {
  TileGrid grid;
  int32_t cameras, channels;
  Blend blend;
  int32_t topk;
  float cutoff;
  SplatArrays splats;
  const float* colors;       // [S, D]
  const float* backgrounds;  // [C, D] or null
  TileListArrays lists;
  float* image;   // [C, H, W, D] (read by the backward pass of topk)
  float* alphas;  // [C, H, W]
  int32_t* last;  // [C, H, W] alpha: last entry drawn, counted from the tile's first; topk: the K-th largest
  float* norm;    // alpha: [C, 1, H, W] final transmittance; topk: [C, 2, H, W] K-th largest weight, normaliser
};

struct RasterizeGrads {
  const float* v_image;   // [C, H, W, D]
  const float* v_alphas;  // [C, H, W]
  float* v_means2d;       // [S, 2]
  float* v_conics;        // [S, 3]
  float* v_opacities;     // [S]
  float* v_colors;        // [S, D]
  float* v_means2d_abs;   // [S, 2] or null
};

// 2D front end (images): covariance from scales along two axes at an angle.
struct ProjectImageParams {
  const float* means;       // [N, 2]
  const float* log_scales;  // [N, 2]
  const float* angles;      // [N]
  const float* opacities;   // [N]
  int64_t count;
  TileGrid grid;
  float cutoff;
  int32_t* radii;  // [N, 2]
  float* conics;   // [N, 3]
};

}  // namespace splat
