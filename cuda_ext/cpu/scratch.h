// Memory that is freed at the end of the scope, for arrays whose size is known at run time. Cache lines are not shared.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace splat::cpu::SPLAT_ISA {

template <class T>
struct Scratch {
  T* data;
  explicit Scratch(int64_t count)
      : data(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 64) / 64 * 64))) {
    if (data == nullptr) std::abort();
  }
  Scratch(int64_t count, int zero) : Scratch(count) { std::memset(static_cast<void*>(data), zero, count * sizeof(T)); }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data; }
};

}  // namespace splat::cpu::SPLAT_ISA
