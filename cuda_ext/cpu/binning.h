// Tile lists on the CPU: which splats touch which 4x4 blocks of which tiles, in drawing order.
#pragma once
#include <cstdint>

#include "splat/params.h"

namespace splat::cpu {

// What the splats of one fixed piece of the input touch, splat by splat and then tile by tile in row-major order.
struct TouchPiece {
  int32_t* tiles;  // tile within the camera; malloc'ed, owned by whoever holds the pieces
  int16_t* masks;
  int64_t count, capacity;
};
constexpr int64_t kTouchPiece = 1024;  // splats in a piece

// Fills one piece and the number of tiles of each of its splats. Compiled per instruction set.
using TouchFn = void (*)(const SplatArrays&, TileGrid, float cutoff, int64_t begin, int64_t end, TouchPiece&,
                         int64_t* tiles_per_splat);

// Order of the splats of one camera: by depth, ties by ids (or index); all by index where depths is null.
void drawing_order(const float* depths, const int64_t* ids, const int64_t* tiles_per_splat, int64_t n, int32_t* order,
                   int64_t& visible);

}  // namespace splat::cpu
