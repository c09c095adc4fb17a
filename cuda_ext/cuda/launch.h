// How kernels are launched: by nvcc's syntax, or on the host by tests/emu/emu.h, so that every kernel runs without a GPU.
#pragma once
#include "stream.h"

#if defined(__CUDACC__)
#define SPLAT_LAUNCH(kernel, grid, block, stream, ...) (kernel)<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#else
#define SPLAT_LAUNCH(kernel, grid, block, stream, ...) emu::launch((grid), (block), [=] { (kernel)(__VA_ARGS__); })
#endif
