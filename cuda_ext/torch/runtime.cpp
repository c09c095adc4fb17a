// Ops about the library itself rather than about tensors.
#include "../cuda/kernels.h"
#include "checks.h"
#include "device.h"
#include "kernels.h"
#include "parallel.h"
#include "splat/records.h"

namespace splat {
namespace {

void op_set_num_threads(int64_t n) {
  STD_TORCH_CHECK(n >= 1, "n must be at least 1, got ", n);
  cpu::set_num_threads(static_cast<int>(n));
}
int64_t op_get_num_threads() { return cpu::num_threads(); }
int64_t op_record_size(int64_t channels, bool absgrad) { return record_size(static_cast<int>(channels), absgrad); }
std::string op_cpu_isa() { return cpu::kernels().isa; }
std::string op_cuda_archs() { return SPLAT_CUDA_ARCHS; }
bool op_knows_cuda_stream() { return current_stream() != nullptr; }
std::tuple<int64_t, int64_t> op_cuda_versions() {
#if defined(SPLAT_WITHOUT_CUDA)
  return {0, 0};
#else
  const cuda::Versions versions = cuda::versions();
  return {versions.runtime, versions.driver};
#endif
}

}  // namespace
}  // namespace splat

STABLE_TORCH_LIBRARY_IMPL(splat, CompositeExplicitAutograd, m) {
  m.impl("set_num_threads", TORCH_BOX(&splat::op_set_num_threads));
  m.impl("get_num_threads", TORCH_BOX(&splat::op_get_num_threads));
  m.impl("record_size", TORCH_BOX(&splat::op_record_size));
  m.impl("cpu_isa", TORCH_BOX(&splat::op_cpu_isa));
  m.impl("cuda_archs", TORCH_BOX(&splat::op_cuda_archs));
  m.impl("knows_cuda_stream", TORCH_BOX(&splat::op_knows_cuda_stream));
  m.impl("cuda_versions", TORCH_BOX(&splat::op_cuda_versions));
}
