// The CPU kernels are compiled once per instruction set (setup.py) and chosen at run time. We do not use GCC's
// target_clones: it lowers generic vector types for the baseline before cloning, which costs the 512-bit code.
//
// A file compiled per instruction set puts everything in namespace splat::cpu::SPLAT_ISA and uses no std:: container or
// other non-inlined template: the linker would merge its instantiations across instruction sets.
#pragma once
#include "binning.h"
#include "splat/params.h"

namespace splat::cpu {

struct Kernels {
  const char* isa;
  TouchFn touch;
  void (*project)(const ProjectParams<float>&);
  void (*project_backward)(const ProjectParams<float>&, const ProjectGrads<float>&);
  void (*project_double)(const ProjectParams<double>&);
  void (*project_backward_double)(const ProjectParams<double>&, const ProjectGrads<double>&);
  void (*sh)(const ShParams<float>&);
  void (*sh_backward)(const ShParams<float>&, const ShGrads<float>&);
  void (*sh_double)(const ShParams<double>&);
  void (*sh_backward_double)(const ShParams<double>&, const ShGrads<double>&);
  void (*project_image)(const ProjectImageParams&);
  void (*project_image_backward)(const ProjectImageGrads&);
  void (*l1_ssim)(const SsimParams&, double* sums);  // sums of |image - target| and of SSIM
  void (*l1_ssim_backward)(const SsimParams&, float v_l1, float v_ssim, float* v_image);  // per-sum gradients
  void (*adam)(const AdamParams&);
  void (*step)(const StepParams&);
  void (*rasterize_forward)(const RasterizeParams&);
  void (*rasterize_backward)(const RasterizeParams&, const RasterizeGrads&);
  void (*rasterize_l2)(const RasterizeParams&, const RasterizeGrads&, const L2Params&);
};

// The best table that this machine can run; SPLAT_CPU_ISA=base|v3|v4 in the environment asks for a lesser one.
const Kernels& kernels();

}  // namespace splat::cpu

// Declares a kernel of this instruction set, for its own file and for kernels.cpp:
//   SPLAT_KERNEL(project_forward, const ProjectParams&);
#define SPLAT_KERNEL(name, ...) \
  namespace splat::cpu::SPLAT_ISA { void name(__VA_ARGS__); }
