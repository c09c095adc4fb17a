// The table of kernels of one instruction set.
#include "kernels.h"

#define SPLAT_STRING_(x) #x
#define SPLAT_STRING(x) SPLAT_STRING_(x)

namespace splat::cpu::SPLAT_ISA {

extern const Kernels table;
const Kernels table = {
    .isa = SPLAT_STRING(SPLAT_ISA),
};

}  // namespace splat::cpu::SPLAT_ISA
