#include "kernels.h"
#include "launch.h"

namespace splat::cuda {

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace splat::cuda
