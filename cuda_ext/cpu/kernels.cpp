// The table of kernels of one instruction set.
#include "kernels.h"

SPLAT_KERNEL(touch, const SplatArrays&, TileGrid, float, int64_t, int64_t, TouchPiece&, int64_t*)
SPLAT_KERNEL(project, const ProjectParams<float>&)
SPLAT_KERNEL(project_backward, const ProjectParams<float>&, const ProjectGrads<float>&)
SPLAT_KERNEL(project_double, const ProjectParams<double>&)
SPLAT_KERNEL(project_backward_double, const ProjectParams<double>&, const ProjectGrads<double>&)
SPLAT_KERNEL(sh, const ShParams<float>&)
SPLAT_KERNEL(sh_backward, const ShParams<float>&, const ShGrads<float>&)
SPLAT_KERNEL(sh_double, const ShParams<double>&)
SPLAT_KERNEL(sh_backward_double, const ShParams<double>&, const ShGrads<double>&)
SPLAT_KERNEL(project_image, const ProjectImageParams&)
SPLAT_KERNEL(project_image_backward, const ProjectImageGrads&)
SPLAT_KERNEL(l1_ssim, const SsimParams&, double*)
SPLAT_KERNEL(l1_ssim_backward, const SsimParams&, float, float, float*)
SPLAT_KERNEL(adam, const AdamParams&)
SPLAT_KERNEL(step, const StepParams&)
SPLAT_KERNEL(rasterize_forward, const RasterizeParams&)
SPLAT_KERNEL(rasterize_backward, const RasterizeParams&, const RasterizeGrads&)
SPLAT_KERNEL(rasterize_l2, const RasterizeParams&, const RasterizeGrads&, const L2Params&)

#define SPLAT_STRING_(x) #x
#define SPLAT_STRING(x) SPLAT_STRING_(x)

namespace splat::cpu::SPLAT_ISA {

extern const Kernels table;
const Kernels table = {
    .isa = SPLAT_STRING(SPLAT_ISA),
    .touch = touch,
    .project = project,
    .project_backward = project_backward,
    .project_double = project_double,
    .project_backward_double = project_backward_double,
    .sh = sh,
    .sh_backward = sh_backward,
    .sh_double = sh_double,
    .sh_backward_double = sh_backward_double,
    .project_image = project_image,
    .project_image_backward = project_image_backward,
    .l1_ssim = l1_ssim,
    .l1_ssim_backward = l1_ssim_backward,
    .adam = adam,
    .step = step,
    .rasterize_forward = rasterize_forward,
    .rasterize_backward = rasterize_backward,
    .rasterize_l2 = rasterize_l2,
};

}  // namespace splat::cpu::SPLAT_ISA
