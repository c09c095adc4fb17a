// One plain struct per stage, passed by value to the kernels of every backend. Shapes as in torch/schema.cpp.
#pragma once
#include <cstdint>

namespace splat {

enum class Blend : int32_t { kAlpha = 0, kSum = 1, kTopK = 2 };

struct ImageSize {
  int32_t width, height;  // pixels
};

}  // namespace splat
