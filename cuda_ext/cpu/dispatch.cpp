#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace splat::cpu {

namespace base { extern const Kernels table; }
#if defined(SPLAT_HAS_V3)
namespace v3 { extern const Kernels table; }
#endif
#if defined(SPLAT_HAS_V4)
namespace v4 { extern const Kernels table; }
#endif

namespace {

const Kernels& choose() {
  const char* asked = std::getenv("SPLAT_CPU_ISA");
  const auto allowed = [&](const char* name) { return asked == nullptr || *asked == 0 || std::strcmp(asked, name) == 0; };
  (void)allowed;
#if defined(SPLAT_HAS_V4)
  if (allowed("v4") && __builtin_cpu_supports("x86-64-v4")) return v4::table;
#endif
#if defined(SPLAT_HAS_V3)
  if ((allowed("v3") || allowed("v4")) && __builtin_cpu_supports("x86-64-v3")) return v3::table;
#endif
  return base::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& table = choose();
  return table;
}

}  // namespace splat::cpu
