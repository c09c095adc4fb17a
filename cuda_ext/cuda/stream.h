// cudaStream_t for the headers that host code includes: the runtime's, the emulator's, or a name alone.
#pragma once
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#elif defined(SPLAT_EMULATED)
#include "emu.h"
#else
struct CUstream_st;
using cudaStream_t = CUstream_st*;
#endif

// In a build without nvcc the kernels are not there: the declarations are weak, and the glue looks before it calls.
#if defined(SPLAT_WITHOUT_CUDA)
#define SPLAT_CUDA_API __attribute__((weak))
#else
#define SPLAT_CUDA_API
#endif
