// How a function of this library becomes torch's op: whatever it throws names the op, and says what torch said.
#pragma once
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <stdexcept>
#include <string>

// Since torch 2.13; weak, because the library is built for older ones too.
extern "C" __attribute__((weak, visibility("default"))) const char* torch_exception_get_what_without_backtrace();

namespace splat {

// What went wrong. A call into torch that failed throws "... API call failed at FILE, line LINE" on this side of its C
// interface; torch's own words ("CUDA out of memory. Tried to allocate ...") must be asked for.
inline std::string explanation(const std::runtime_error& error) {
  if (std::strstr(error.what(), "API call failed at") == nullptr) return error.what();
  if (torch_exception_get_what_without_backtrace != nullptr) return torch_exception_get_what_without_backtrace();
  if (std::strstr(error.what(), "aten::new_empty") != nullptr)
    return "out of memory? torch could not allocate a tensor; it said why on stderr";
  return std::string("torch said why on stderr: ") + error.what();
}

// Other exceptions pass: std::bad_alloc is a MemoryError in Python.
template <class Boxed>
void call_named(const char* op, Boxed boxed, StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  try {
    boxed(stack, inputs, outputs);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("splat::") + op + ": " + explanation(error));
  }
}

}  // namespace splat

// Registers splat::op as the op of the same name.
#define SPLAT_IMPL(m, op)                                                       \
  m.impl(#op, [](StableIValue* stack, uint64_t inputs, uint64_t outputs) {      \
    ::splat::call_named(#op, TORCH_BOX(&::splat::op), stack, inputs, outputs);  \
  })
