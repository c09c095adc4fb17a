// The numbers of a projection, from an op's arguments into its kernels' params.
#pragma once
#include <cstdint>

#include "splat/params.h"

namespace splat {

struct ProjectView {
  int64_t width, height;
  double eps2d, near_plane, far_plane, radius_clip;
  int64_t camera_model;
  bool antialiased, raw;
};

template <class T>
void set_view(ProjectParams<T>& p, const ProjectView& v) {
  p.width = static_cast<int32_t>(v.width);
  p.height = static_cast<int32_t>(v.height);
  p.eps2d = static_cast<T>(v.eps2d);
  p.near_plane = static_cast<T>(v.near_plane);
  p.far_plane = static_cast<T>(v.far_plane);
  p.radius_clip = static_cast<T>(v.radius_clip);
  p.camera_model = static_cast<int32_t>(v.camera_model);
  p.antialiased = v.antialiased;
  p.raw = v.raw;
}

}  // namespace splat
