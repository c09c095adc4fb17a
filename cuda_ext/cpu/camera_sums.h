// Gradients of the cameras are sums over all Gaussians. Each fixed piece of 1,024 Gaussians sums into a row of its own in
// double, and the rows are added in order: the same bits for any number of threads.
#pragma once
#include <cstdlib>

#include "parallel.h"
#include "splat/hd.h"
#include "splat/project.h"

namespace splat::cpu::SPLAT_ISA {

constexpr int64_t kSumPiece = 1024;

struct CameraSums {
  int64_t pieces, width;
  double* rows;

  CameraSums(int64_t count, int64_t cameras)
      : pieces((count + kSumPiece - 1) / kSumPiece),
        width(cameras * kCameraSums),
        rows(static_cast<double*>(std::calloc(pieces * width + 1, sizeof(double)))) {
    if (rows == nullptr) std::abort();
  }
  ~CameraSums() { std::free(rows); }
  CameraSums(const CameraSums&) = delete;
  CameraSums& operator=(const CameraSums&) = delete;

  // body(begin, end, sums): sums points to kCameraSums values for each camera.
  template <class F>
  SPLAT_HD void for_pieces(int64_t count, F&& body) {
    parallel_for(count, kSumPiece, [&](int64_t b, int64_t e) { body(b, e, rows + b / kSumPiece * width); });
  }
  SPLAT_HD double total(int64_t camera, int i) const {
    double sum = 0.0;
    for (int64_t p = 0; p < pieces; ++p) sum += rows[p * width + camera * kCameraSums + i];
    return sum;
  }
  template <class T>
  SPLAT_HD void write_viewmats(int64_t cameras, T* v_viewmats) const {
    for (int64_t c = 0; c < cameras; ++c)
      for (int i = 0; i < 16; ++i) v_viewmats[16 * c + i] = i < 12 ? T(total(c, i)) : T(0);
  }
};

}  // namespace splat::cpu::SPLAT_ISA
