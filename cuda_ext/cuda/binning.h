// Tile lists on the GPU. The number of entries is known on the device only: what follows it works in arrays of a given
// length, and says so where they do not suffice. Nothing but read_totals waits for the host.
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

// Numbers of entries and of splats that have any.
struct BinSizes {
  int64_t entries, visible;
};

// What bin_count leaves for bin_fill, on the device.
struct BinCounts {
  int64_t* splat_offsets;  // [S + 1]
  BinSizes* totals;        // [1]
  const int64_t* by_id;    // [N] the Gaussians in the order of their ids, or null: of their index
  int32_t* places;         // [S + 1] in that order: number of visible splats before this one
};

struct BinLists {
  int64_t* tile_offsets;  // [C * tiles + 1]
  int32_t* entries;       // [room.entries], as the next two; -1, 0 and -1 where there are fewer entries
  int16_t* masks;
  int32_t* slots;
  BinSizes room;
};

// Fills splat_offsets [S + 1] and totals [1].
SPLAT_CUDA_API BinCounts bin_count(const BinParams& p, const Arena& arena, int64_t* splat_offsets, BinSizes* totals,
                                   cudaStream_t stream);

// The totals, once the stream has made them. Entries are -1 where the GPU reports an error, -2 while a graph is captured.
SPLAT_CUDA_API BinSizes read_totals(const BinSizes* totals, cudaStream_t stream);

// Where the totals exceed the room, all lists are left empty, splat_offsets too: nothing is drawn rather than a part.
SPLAT_CUDA_API void bin_fill(const BinParams& p, const Arena& arena, const BinCounts& counts, const BinLists& out,
                             cudaStream_t stream);

}  // namespace splat::cuda
