// 2D front end on the CPU: loops over Gaussians around project_image.h.
#include "splat/project_image.h"

#include "kernels.h"
#include "parallel.h"

SPLAT_KERNEL(project_image, const ProjectImageParams&)
SPLAT_KERNEL(project_image_backward, const ProjectImageGrads&)

namespace splat::cpu::SPLAT_ISA {
namespace {

constexpr int64_t kGrain = 2048;

}  // namespace

void project_image(const ProjectImageParams& p) {
  parallel_for(p.count, kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) project_image_gaussian(p, i);
  });
}

void project_image_backward(const ProjectImageGrads& g) {
  parallel_for(g.count, kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) project_image_vjp(g, i);
  });
}

}  // namespace splat::cpu::SPLAT_ISA
