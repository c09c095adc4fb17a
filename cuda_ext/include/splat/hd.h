// Function qualifiers. Every formula in this folder is compiled three ways: by g++ for scalars, by g++ for vectors of
// lanes (cpu/lanes.h), and by nvcc for device code.
#pragma once

#if defined(__CUDACC__)
#define SPLAT_HD __host__ __device__ __forceinline__
#else
// always_inline, not inline: the same header is compiled for several instruction sets into one library, and a
// function emitted out of line could be merged by the linker into the build for the wrong one.
#define SPLAT_HD inline __attribute__((always_inline))
#endif
