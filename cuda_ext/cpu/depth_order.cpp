#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "binning.h"

namespace splat::cpu {
namespace {

// Floats as unsigned integers in the same order.
uint32_t sort_key(float depth) {
  const uint32_t bits = std::bit_cast<uint32_t>(depth);
  return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

// Stable least-significant-digit radix sort of `order` by key[order[i]].
void radix_sort(const std::vector<uint32_t>& key, int32_t* order, int64_t n) {
  constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = 3;
  std::vector<int64_t> counts(kPasses * kBuckets, 0);
  for (int64_t i = 0; i < n; ++i)
    for (int p = 0; p < kPasses; ++p) ++counts[p * kBuckets + ((key[i] >> (p * kBits)) & (kBuckets - 1))];
  struct Item {
    uint32_t key;
    int32_t index;
  };
  std::vector<Item> a(n), b(n);
  for (int64_t i = 0; i < n; ++i) a[i] = {key[i], order[i]};
  for (int p = 0; p < kPasses; ++p) {
    int64_t* count = counts.data() + p * kBuckets;
    int64_t position = 0;
    for (int d = 0; d < kBuckets; ++d) position += std::exchange(count[d], position);
    for (const Item& item : a) b[count[(item.key >> (p * kBits)) & (kBuckets - 1)]++] = item;
    a.swap(b);
  }
  for (int64_t i = 0; i < n; ++i) order[i] = a[i].index;
}

}  // namespace

void drawing_order(const float* depths, const int64_t* ids, const int64_t* tiles_per_splat, int64_t n, int32_t* order,
                   int64_t& visible) {
  visible = 0;
  for (int64_t i = 0; i < n; ++i)
    if (tiles_per_splat[i] > 0) order[visible++] = static_cast<int32_t>(i);
  if (depths == nullptr) return;
  if (ids != nullptr) std::stable_sort(order, order + visible, [ids](int32_t a, int32_t b) { return ids[a] < ids[b]; });
  std::vector<uint32_t> key(visible);
  for (int64_t i = 0; i < visible; ++i) key[i] = sort_key(depths[order[i]]);
  radix_sort(key, order, visible);
}

}  // namespace splat::cpu
