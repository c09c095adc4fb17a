// Training steps of 3D Gaussians on the CPU: a loop over Gaussians around step.h.
#include "splat/step.h"

#include "kernels.h"
#include "parallel.h"

SPLAT_KERNEL(step, const StepParams&)

namespace splat::cpu::SPLAT_ISA {
namespace {

template <int kDegree, int kFixed>
void steps(const StepParams& p) {
  const Camera<float> camera(p.project, 0);
  parallel_for(p.project.count, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!moves(p, i)) continue;
      const StoredUpdate update(p, i);
      step_gaussian<kDegree, kFixed>(p, camera, update, p.sh.shN + i * p.sh.stride,
                                     [&](int k, float grad) { update(kShN, int(p.sh.stride), k, grad); });
    }
  });
}

}  // namespace

void step(const StepParams& p) {
  if (p.skip != nullptr && *p.skip) return;
  if (p.sh.channels == 3 && p.sh.degree == 3) return steps<3, 3>(p);
  if (p.sh.channels == 3) return steps<-1, 3>(p);
  steps<-1, 0>(p);
}

}  // namespace splat::cpu::SPLAT_ISA
