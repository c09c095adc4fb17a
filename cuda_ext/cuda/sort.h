// Device-wide sums and sorts: CUB's, or on the host those of a stand-in. Only here.
#pragma once
#include <stdexcept>
#include <string>

#include "binning.h"
#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#else
#include "emu_cub.h"
#endif

namespace splat::cuda {

// CUB reports some errors by its status alone.
template <class Status>
void require(Status status) {
  if (int(status) != 0) throw std::runtime_error("CUDA error " + std::to_string(int(status)) + " in a sort or a sum");
}

template <class T>
void exclusive_sum(const Arena& arena, const T* in, T* out, int64_t count, cudaStream_t stream) {
  size_t bytes = 0;
  require(cub::DeviceScan::ExclusiveSum(nullptr, bytes, in, out, count, stream));
  require(cub::DeviceScan::ExclusiveSum(arena.take(bytes), bytes, in, out, count, stream));
}

// Stable, by the lowest `bits` of the keys; the pointers are those of the sorted arrays afterwards.
template <class Key, class Value>
void sort_pairs(const Arena& arena, Key*& keys, Value*& values, int64_t count, int bits, cudaStream_t stream) {
  Key* to = arena.take_array<Key>(count);
  Value* values_to = arena.take_array<Value>(count);
  size_t bytes = 0;
  require(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, to, values, values_to, count, 0, bits, stream));
  require(
      cub::DeviceRadixSort::SortPairs(arena.take(bytes), bytes, keys, to, values, values_to, count, 0, bits, stream));
  keys = to;
  values = values_to;
}

}  // namespace splat::cuda
