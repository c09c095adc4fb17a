// Small vectors and matrices on plain values, and dual numbers for derivatives of long formulae.
#pragma once
#include <math.h>

#include "splat/hd.h"

namespace splat {

template <class T>
struct Vec3 {
  T x, y, z;
};
template <class T>
struct Mat3 {
  T m[3][3];  // row-major
};
// A symmetric 2x2 matrix [[a, b], [b, c]].
template <class T>
struct Sym2 {
  T a, b, c;
};
template <class T>
struct Mat23 {
  T m[2][3];
};

template <class T>
SPLAT_HD T dot(const Vec3<T>& a, const Vec3<T>& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <class T>
SPLAT_HD Vec3<T> mul(const Mat3<T>& A, const Vec3<T>& v) {
  return {A.m[0][0] * v.x + A.m[0][1] * v.y + A.m[0][2] * v.z, A.m[1][0] * v.x + A.m[1][1] * v.y + A.m[1][2] * v.z,
          A.m[2][0] * v.x + A.m[2][1] * v.y + A.m[2][2] * v.z};
}
template <class T>
SPLAT_HD Mat3<T> transpose(const Mat3<T>& A) {
  Mat3<T> r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) r.m[i][j] = A.m[j][i];
  return r;
}
template <class T>
SPLAT_HD Mat3<T> mul(const Mat3<T>& A, const Mat3<T>& B) {
  Mat3<T> r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) r.m[i][j] = A.m[i][0] * B.m[0][j] + A.m[i][1] * B.m[1][j] + A.m[i][2] * B.m[2][j];
  return r;
}
// A B^T
template <class T>
SPLAT_HD Mat3<T> mul_transposed(const Mat3<T>& A, const Mat3<T>& B) { return mul(A, transpose(B)); }
template <class T>
SPLAT_HD bool finite(T x) { return x - x == T(0); }

// Value and three partial derivatives. For the formulae whose hand-written derivative would be longer than themselves.
template <class T>
struct Dual3 {
  T v, d[3];
  Dual3() = default;
  SPLAT_HD Dual3(T value) : v(value), d{T(0), T(0), T(0)} {}
  SPLAT_HD Dual3(T value, int variable) : Dual3(value) { d[variable] = T(1); }
};
template <class T>
SPLAT_HD Dual3<T> chain(T value, T slope, const Dual3<T>& a) {
  Dual3<T> r(value);
  for (int i = 0; i < 3; ++i) r.d[i] = slope * a.d[i];
  return r;
}
template <class T>
SPLAT_HD Dual3<T> operator+(const Dual3<T>& a, const Dual3<T>& b) {
  Dual3<T> r(a.v + b.v);
  for (int i = 0; i < 3; ++i) r.d[i] = a.d[i] + b.d[i];
  return r;
}
template <class T>
SPLAT_HD Dual3<T> operator-(const Dual3<T>& a, const Dual3<T>& b) {
  Dual3<T> r(a.v - b.v);
  for (int i = 0; i < 3; ++i) r.d[i] = a.d[i] - b.d[i];
  return r;
}
template <class T>
SPLAT_HD Dual3<T> operator*(const Dual3<T>& a, const Dual3<T>& b) {
  Dual3<T> r(a.v * b.v);
  for (int i = 0; i < 3; ++i) r.d[i] = a.v * b.d[i] + a.d[i] * b.v;
  return r;
}
template <class T>
SPLAT_HD Dual3<T> operator/(const Dual3<T>& a, const Dual3<T>& b) {
  const T q = a.v / b.v;
  Dual3<T> r(q);
  for (int i = 0; i < 3; ++i) r.d[i] = (a.d[i] - q * b.d[i]) / b.v;
  return r;
}
template <class T>
SPLAT_HD Dual3<T> root(const Dual3<T>& a) {
  const T s = sqrt(a.v);
  return chain(s, T(0.5) / s, a);
}
template <class T>
SPLAT_HD Dual3<T> arctan2(const Dual3<T>& y, const Dual3<T>& x) {
  const T n = x.v * x.v + y.v * y.v;
  return chain(T(atan2(y.v, x.v)), x.v / n, y) - chain(T(0), y.v / n, x);
}
SPLAT_HD float root(float a) { return sqrtf(a); }
SPLAT_HD double root(double a) { return sqrt(a); }
SPLAT_HD float exponential(float a) { return expf(a); }
SPLAT_HD double exponential(double a) { return exp(a); }
SPLAT_HD float arctan2(float y, float x) { return atan2f(y, x); }
SPLAT_HD double arctan2(double y, double x) { return atan2(y, x); }

}  // namespace splat
