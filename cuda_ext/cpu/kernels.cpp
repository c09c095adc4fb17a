// The table of kernels of one instruction set.
#include "kernels.h"

SPLAT_KERNEL(touch, const SplatArrays&, TileGrid, float, int64_t, int64_t, TouchPiece&, int64_t*)
SPLAT_KERNEL(rasterize_forward, const RasterizeParams&)
SPLAT_KERNEL(rasterize_backward, const RasterizeParams&, const RasterizeGrads&)

#define SPLAT_STRING_(x) #x
#define SPLAT_STRING(x) SPLAT_STRING_(x)

namespace splat::cpu::SPLAT_ISA {

extern const Kernels table;
const Kernels table = {
    .isa = SPLAT_STRING(SPLAT_ISA),
    .touch = touch,
    .rasterize_forward = rasterize_forward,
    .rasterize_backward = rasterize_backward,
};

}  // namespace splat::cpu::SPLAT_ISA
