// The emulated kernels behind a C interface, for ctypes. Pointers are those of CPU tensors.
#include "kernels.h"

using namespace splat;

namespace {

// pointers and numbers in the order of emulator.py.
RasterizeParams params(void* const* t, const int64_t* n, float cutoff) {
  RasterizeParams p{};
  p.grid = {int32_t(n[0]), int32_t(n[1])};
  p.cameras = int32_t(n[2]);
  p.channels = int32_t(n[3]);
  p.blend = Blend(n[4]);
  p.topk = int32_t(n[5]);
  p.cutoff = cutoff;
  const auto f = [&](int i) { return static_cast<float*>(t[i]); };
  p.splats = {f(0), f(1), f(2), nullptr, n[6]};
  p.colors = f(3);
  p.backgrounds = f(4);
  p.lists = {static_cast<int64_t*>(t[5]), static_cast<int32_t*>(t[6]), static_cast<int16_t*>(t[7]),
             static_cast<int64_t*>(t[8]), static_cast<int32_t*>(t[9]), n[7]};
  p.image = f(10);
  p.alphas = f(11);
  p.last = static_cast<int32_t*>(t[12]);
  p.norm = f(13);
  return p;
}

}  // namespace

extern "C" {

void emu_set_reversed(int reversed) { emu::reversed = reversed != 0; }

void emu_rasterize_forward(void* const* tensors, const int64_t* numbers, float cutoff, void* splats) {
  cuda::rasterize_forward(params(tensors, numbers, cutoff), static_cast<Splat2D*>(splats), nullptr);
}

void emu_rasterize_backward(void* const* tensors, const int64_t* numbers, float cutoff, void* splats,
                            void* const* grads, float* records) {
  const auto f = [&](int i) { return static_cast<float*>(grads[i]); };
  const RasterizeGrads g{f(0), f(1), f(2), f(3), f(4), f(5), f(6)};
  cuda::rasterize_backward(params(tensors, numbers, cutoff), g, static_cast<Splat2D*>(splats), records, nullptr);
}
}
