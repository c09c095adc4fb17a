// A vector of float lanes with the operators that the shared formulae use, so that blend.h compiles for one float (CUDA)
// and for one register of floats (here). GCC and clang vector extensions: no intrinsics, any CPU.
#pragma once
#include <cstdint>
#include <cstring>

#include "splat/hd.h"

namespace splat::cpu::SPLAT_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float FloatVector __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVector __attribute__((vector_size(4 * kLanes)));

struct Mask {
  IntVector v;  // all ones or all zeros per lane
};
struct Lanes {
  FloatVector v;
  Lanes() = default;
  SPLAT_HD Lanes(float x) : v(x - FloatVector{}) {}
  SPLAT_HD explicit Lanes(FloatVector x) : v(x) {}
};

SPLAT_HD Lanes operator+(Lanes a, Lanes b) { return Lanes(a.v + b.v); }
SPLAT_HD Lanes operator-(Lanes a, Lanes b) { return Lanes(a.v - b.v); }
SPLAT_HD Lanes operator*(Lanes a, Lanes b) { return Lanes(a.v * b.v); }
SPLAT_HD Lanes operator/(Lanes a, Lanes b) { return Lanes(a.v / b.v); }
SPLAT_HD Lanes operator-(Lanes a) { return Lanes(-a.v); }
SPLAT_HD Lanes& operator+=(Lanes& a, Lanes b) { a.v += b.v; return a; }
SPLAT_HD Mask operator>=(Lanes a, Lanes b) { return {a.v >= b.v}; }
SPLAT_HD Mask operator>(Lanes a, Lanes b) { return {a.v > b.v}; }
SPLAT_HD Mask operator<(Lanes a, Lanes b) { return {a.v < b.v}; }
SPLAT_HD Mask operator==(Lanes a, Lanes b) { return {a.v == b.v}; }
SPLAT_HD Mask operator&(Mask a, Mask b) { return {a.v & b.v}; }
SPLAT_HD Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }

SPLAT_HD Lanes select(Mask m, Lanes a, Lanes b) {
  return Lanes((FloatVector)(((IntVector)a.v & m.v) | ((IntVector)b.v & ~m.v)));
}
// Where m holds a, elsewhere 0: cheaper than select.
SPLAT_HD Lanes keep(Mask m, Lanes a) { return Lanes((FloatVector)((IntVector)a.v & m.v)); }
SPLAT_HD Lanes reciprocal(Lanes a) { return Lanes(1.0f) / a; }
SPLAT_HD Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return a * b + c; }
SPLAT_HD Lanes subtract_product(Lanes c, Lanes a, Lanes b) { return c - a * b; }
SPLAT_HD Lanes minimum(Lanes a, Lanes b) { return Lanes(a.v < b.v ? a.v : b.v); }
SPLAT_HD Lanes maximum(Lanes a, Lanes b) { return Lanes(a.v > b.v ? a.v : b.v); }
SPLAT_HD Lanes absolute(Lanes a) { return Lanes((FloatVector)((IntVector)a.v & 0x7fffffff)); }
SPLAT_HD Lanes negative_absolute(Lanes a) { return Lanes((FloatVector)((IntVector)a.v | INT32_MIN)); }
SPLAT_HD Lanes square_root(Lanes a) {
  Lanes r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = __builtin_sqrtf(a.v[i]);
  return r;
}

// 2^x for x in [-126, 127]; garbage outside, which the callers mask. Rounding by a magic number, then a degree-5
// minimax polynomial on [-1/2, 1/2]: relative error 1.6e-7.
SPLAT_HD Lanes exp2_fast(Lanes x) {
  const FloatVector magic = Lanes(12582912.0f).v;
  const FloatVector t = x.v + magic;  // the integer part sits in the low bits of the mantissa
  const FloatVector f = x.v - (t - magic);
  FloatVector p = f * 1.32647e-3f + 9.67151e-3f;
  p = p * f + 5.550734e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0f;
  return Lanes((FloatVector)((IntVector)p + ((IntVector)t << 23)));
}

SPLAT_HD Lanes load(const float* p) {  // aligned
  return Lanes(*reinterpret_cast<const FloatVector*>(p));
}
SPLAT_HD void store(float* p, Lanes a) { *reinterpret_cast<FloatVector*>(p) = a.v; }
SPLAT_HD IntVector load_int(const int32_t* p) { return *reinterpret_cast<const IntVector*>(p); }
SPLAT_HD void store_int(int32_t* p, IntVector a) { *reinterpret_cast<IntVector*>(p) = a; }

SPLAT_HD IntVector select_int(Mask m, IntVector a, IntVector b) { return (a & m.v) | (b & ~m.v); }

SPLAT_HD bool any(Mask m) {
  typedef int64_t Words __attribute__((vector_size(4 * kLanes)));
  const Words w = (Words)m.v;
  int64_t r = 0;
  for (int i = 0; i < kLanes / 2; ++i) r |= w[i];
  return r != 0;
}

typedef float Float4 __attribute__((vector_size(16)));

// Four values of three planes, `stride` apart, as four adjacent triples: a row of pixels from the planes of its channels.
SPLAT_HD void interleave3(const float* planes, int64_t stride, float* out) {
  Float4 r, g, b;
  std::memcpy(&r, planes, sizeof r);
  std::memcpy(&g, planes + stride, sizeof g);
  std::memcpy(&b, planes + 2 * stride, sizeof b);
  const Float4 rg = __builtin_shufflevector(r, g, 0, 4, 1, 5), gr = __builtin_shufflevector(r, g, 2, 6, 3, 7);
  const Float4 first = __builtin_shufflevector(rg, b, 0, 1, 4, 2);
  const Float4 second = __builtin_shufflevector(__builtin_shufflevector(rg, b, 3, 5, 3, 5), gr, 0, 1, 4, 5);
  const Float4 third = __builtin_shufflevector(gr, b, 6, 2, 3, 7);
  std::memcpy(out, &first, sizeof first);
  std::memcpy(out + 4, &second, sizeof second);
  std::memcpy(out + 8, &third, sizeof third);
}

SPLAT_HD Float4 fold(Lanes a) {
#if defined(__AVX512F__)
  typedef float Float8 __attribute__((vector_size(32)));
  const Float8 h = __builtin_shufflevector(a.v, a.v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(a.v, a.v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif defined(__AVX__)
  return __builtin_shufflevector(a.v, a.v, 0, 1, 2, 3) + __builtin_shufflevector(a.v, a.v, 4, 5, 6, 7);
#else
  return a.v;
#endif
}

// The sums of four registers at once: a transposed reduction, 2.5 operations a register instead of 5.
SPLAT_HD void sum4(Lanes a, Lanes b, Lanes c, Lanes d, float* out) {
  const Float4 p = fold(a), q = fold(b), r = fold(c), s = fold(d);
  const Float4 pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
  const Float4 rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
  const Float4 all = __builtin_shufflevector(pq, rs, 0, 1, 4, 5) + __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
  std::memcpy(out, &all, sizeof all);
}

}  // namespace splat::cpu::SPLAT_ISA
