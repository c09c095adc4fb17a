// Sums and maxima over the 32 lanes of a warp.
#pragma once
#include "launch.h"

namespace splat::cuda {

// The lanes with `high` keep b, the others a; each adds what its partner at `distance` kept of the same value. Halves the
// number of values and the number of lanes that hold each.
__device__ __forceinline__ float merge(float a, float b, bool high, int distance) {
  const float sent = high ? a : b, kept = high ? b : a;
  return kept + __shfl_xor_sync(0xffffffffu, sent, distance);
}
__device__ __forceinline__ float fold(float a, int distance) { return a + __shfl_xor_sync(0xffffffffu, a, distance); }

// The largest of all lanes' values, on all of them.
__device__ __forceinline__ int32_t largest(int32_t value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const int32_t other = __shfl_xor_sync(0xffffffffu, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Sums of four values at once, a transposed reduction: 6 shuffles instead of 20. Lane l gets the total of v[l >> 3] (the
// lanes 0, 8, 16 and 24 stand for the four).
__device__ __forceinline__ float sum4(const float* v, int lane) {
  const bool high16 = lane & 16, high8 = lane & 8;
  const float low = merge(v[0], v[2], high16, 16), high = merge(v[1], v[3], high16, 16);
  float sum = merge(low, high, high8, 8);
  sum = fold(sum, 4);
  sum = fold(sum, 2);
  return fold(sum, 1);
}

}  // namespace splat::cuda
