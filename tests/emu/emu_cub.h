// What CUB does for the kernels, on the host: stable sort by some bits of the key, exclusive sum.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceScan {
  template <class T>
  static int ExclusiveSum(void* memory, size_t& bytes, const T* in, T* out, int64_t count, void*) {
    if (memory == nullptr) return bytes = 1, 0;
    std::exclusive_scan(in, in + count, out, T(0));
    return 0;
  }
};

struct DeviceRadixSort {
  template <class Key, class Value>
  static int SortPairs(void* memory, size_t& bytes, const Key* keys, Key* keys_out, const Value* values,
                       Value* values_out, int64_t count, int begin_bit, int end_bit, void*) {
    if (memory == nullptr) return bytes = 1, 0;
    const auto digits = [&](Key k) {
      const Key shifted = k >> begin_bit;
      return end_bit - begin_bit >= int(8 * sizeof(Key)) ? shifted : shifted & ((Key(1) << (end_bit - begin_bit)) - 1);
    };
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return digits(keys[a]) < digits(keys[b]); });
    for (int64_t i = 0; i < count; ++i) keys_out[i] = keys[order[i]], values_out[i] = values[order[i]];
    return 0;
  }
};

}  // namespace cub
