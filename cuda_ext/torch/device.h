// Where an op runs: on the CPU's kernels, or on the CUDA ones, in torch's current stream.
#pragma once
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <vector>

#include "../cuda/binning.h"
#include "../cuda/kernels.h"
#include "box.h"
#include "checks.h"

namespace splat {

// torch's current stream, from torch's CUDA library where that is loaded; else null. Asked for by name: a weak symbol would
// stay null, since torch loads its libraries for itself alone (RTLD_LOCAL) and this one does not depend on that one.
using CurrentStream = int32_t (*)(int32_t device, void** stream);
inline CurrentStream current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  return library ? reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
}

// One call of CUDA kernels: the tensor's device, its current stream, and scratch memory. What is freed at the end is given
// out again only to later work of the same stream.
class CudaCall {
 public:
  explicit CudaCall(const Tensor& on) : on_(on), guard_(on.get_device_index()) {
    static const CurrentStream of = current_stream();
    void* raw = nullptr;
    STD_TORCH_CHECK(of != nullptr && of(on.get_device_index(), &raw) == 0,
                    "torch does not tell its CUDA stream; is this a CUDA build of torch?");
    stream = static_cast<cudaStream_t>(raw);
    cuda::select_device(on.get_device_index());
  }
  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(bytes(size_t(count) * sizeof(T)));
  }
  cuda::Arena arena() {
    return {this, [](void* self, size_t n) { return static_cast<CudaCall*>(self)->bytes(n); }};
  }
  cudaStream_t stream;

 private:
  void* bytes(size_t n) {
    try {
      held_.push_back(torch::stable::new_empty(on_, {static_cast<int64_t>(n > 0 ? n : 1)}, ScalarType::Byte));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error("wanted " + std::to_string(n >> 20) + " MiB of scratch: " + explanation(error));
    }
    return held_.back().mutable_data_ptr();
  }
  const Tensor& on_;
  torch::stable::accelerator::DeviceGuard guard_;
  std::vector<Tensor> held_;
};

// Errors of launches show at once, those of running kernels at some later call.
inline void check_cuda() {
  const char* error = cuda::last_error();
  if (error == nullptr) return;
  throw std::runtime_error(std::string("CUDA error: ") + error +
                           " (in this op or one before it; CUDA_LAUNCH_BLOCKING=1 shows which)");
}

// Calls cpu() or cuda(call), by where the tensor is.
template <class Cpu, class Cuda>
void run_where(const Tensor& t, Cpu&& cpu, Cuda&& cuda) {
  if (!t.is_cuda()) return cpu();
  STD_TORCH_CHECK(cuda::adam != nullptr, "this build of splat has no CUDA kernels; rebuild it where nvcc is installed");
  CudaCall call(t);
  cuda(call);
  check_cuda();
}

}  // namespace splat
