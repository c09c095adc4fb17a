// Tile lists on the GPU, in two calls, since the number of entries is not known before the first.
#pragma once
#include <cstddef>

#include "splat/params.h"
#include "stream.h"

namespace splat::cuda {

// Device memory that lives until the stream has used it; owned by the caller (torch tensors).
struct Arena {
  void* owner;
  void* (*allocate)(void* owner, size_t bytes);
  void* take(size_t bytes) const { return allocate(owner, bytes > 0 ? bytes : 1); }
  template <class T>
  T* take_array(int64_t count) const {
    return static_cast<T*>(take(sizeof(T) * size_t(count)));
  }
};

struct BinParams {
  SplatArrays splats;  // of all cameras
  TileGrid grid;
  int32_t cameras;
  float cutoff;
  const float* depths;  // [S], or null: drawn by index
  const int64_t* ids;   // [N] breaks ties of depth, or null: the index does
};
struct BinLists {
  int64_t* tile_offsets;  // [C * tiles + 1]
  int32_t* entries;       // [M], as the next two
  int16_t* masks;
  int32_t* slots;
};

// Fills splat_offsets [S + 1] and returns M, or -1 where the GPU reports an error. Waits for the stream.
SPLAT_CUDA_API int64_t bin_count(const BinParams& p, const Arena& arena, int64_t* splat_offsets, cudaStream_t stream);
SPLAT_CUDA_API void bin_fill(const BinParams& p, const Arena& arena, const int64_t* splat_offsets, int64_t total, const BinLists& out,
              cudaStream_t stream);

}  // namespace splat::cuda
