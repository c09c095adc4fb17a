#include "kernels.h"
#include "launch.h"

namespace splat::cuda {

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

void select_device(int device) { cudaSetDevice(device); }

Versions versions() {
  Versions v{0, 0};
  if (cudaRuntimeGetVersion(&v.runtime) != cudaSuccess) v.runtime = 0;
  if (cudaDriverGetVersion(&v.driver) != cudaSuccess) v.driver = 0;
  return v;
}

}  // namespace splat::cuda
