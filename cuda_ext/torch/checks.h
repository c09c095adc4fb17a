// Input checks: each failure names the argument, what was wanted and what came.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

namespace splat {

using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;
using ScalarType = torch::headeronly::ScalarType;

inline std::string shape_of(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); ++i) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "]";
}

// want: -1 stands for any size.
inline void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> want, const char* text) {
  bool ok = t.dim() == static_cast<int64_t>(want.size());
  int64_t i = 0;
  for (int64_t w : want) {
    if (!ok) break;
    ok = w < 0 || t.size(i) == w;
    ++i;
  }
  STD_TORCH_CHECK(ok, name, " must have shape ", text, ", got ", shape_of(t));
}

inline void check_dtype(const Tensor& t, const char* name, ScalarType want, const char* text) {
  STD_TORCH_CHECK(t.scalar_type() == want, name, " must be ", text,
                  " on this backend (the reference backend takes float64 too)");
}

inline void check_float32(const Tensor& t, const char* name) { check_dtype(t, name, ScalarType::Float, "float32"); }

// GPUs count blocks along a second axis to 65,535.
inline void check_grid(const Tensor& t, const char* what, int64_t count) {
  STD_TORCH_CHECK(!t.is_cuda() || count <= 65535, "at most 65535 ", what, " at once on a GPU, got ", count);
}

inline Tensor dense(const Tensor& t) { return torch::stable::contiguous(t); }

template <class T>
inline const T* in(const Tensor& t) { return t.const_data_ptr<T>(); }
template <class T>
inline T* out(Tensor& t) { return t.mutable_data_ptr<T>(); }

}  // namespace splat
