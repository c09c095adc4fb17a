// bin: Splats2D -> TileLists.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "binning.h"
#include "checks.h"
#include "device.h"
#include "kernels.h"
#include "parallel.h"

namespace splat {
namespace {

using cpu::kTouchPiece;
using cpu::TouchPiece;

struct FreePieces {
  void operator()(std::vector<TouchPiece>* pieces) const {
    for (TouchPiece& p : *pieces) std::free(p.tiles), std::free(p.masks);
    delete pieces;
  }
};
using Pieces = std::unique_ptr<std::vector<TouchPiece>, FreePieces>;

// What one camera's splats touch, in index order, with where each splat's tiles begin in its piece.
struct CameraTouches {
  const TouchPiece* pieces;
  const int64_t* splat_offsets;  // of the camera's first splat
  int64_t first;                 // flat index of the camera's first splat

  // Index into the piece of splat i's first tile, and the piece.
  const TouchPiece& piece_of(int64_t i, int64_t& begin) const {
    const int64_t flat = first + i, base = flat / kTouchPiece * kTouchPiece;
    begin = splat_offsets[i] - splat_offsets[base - first];
    return pieces[flat / kTouchPiece];
  }
};

// In drawing order the splats lie all over memory: asks for those some places ahead, first their offsets, then their tiles.
void prefetch(const CameraTouches& touches, const std::vector<int32_t>& order, int64_t k, int64_t last) {
  constexpr int64_t kAhead = 16;
  if (k + 2 * kAhead < last) __builtin_prefetch(touches.splat_offsets + order[k + 2 * kAhead]);
  if (k + kAhead >= last) return;
  int64_t begin;
  const TouchPiece& piece = touches.piece_of(order[k + kAhead], begin);
  __builtin_prefetch(piece.tiles + begin);
}

// Stable counting sort of the touches by tile, splats taken in drawing order. Split over `parts` pieces of the order,
// each with its own histogram; the result does not depend on their number. Writes slots only: a scattered store waits for
// its cache line, so one in place of three (measured), and the rest of an entry is fetched by its slot afterwards.
void sort_by_tile(const CameraTouches& touches, const std::vector<int32_t>& order, int64_t visible, int64_t tiles,
                  int64_t first_entry, int64_t* tile_offsets, int32_t* slots) {
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(cpu::num_threads(), (int64_t{1} << 26) / (tiles + 1)));
  std::vector<int64_t> cursors(parts * tiles, 0);
  const auto each = [&](int64_t part, auto&& body) {
    const int64_t last = visible * (part + 1) / parts;
    for (int64_t k = visible * part / parts; k < last; ++k) {
      prefetch(touches, order, k, last);
      const int32_t i = order[k];
      int64_t begin;
      const TouchPiece& piece = touches.piece_of(i, begin);
      const int64_t n = touches.splat_offsets[i + 1] - touches.splat_offsets[i];
      for (int64_t j = 0; j < n; ++j) body(i, j, piece.tiles[begin + j]);
    }
  };
  cpu::parallel_for(parts, 1, [&](int64_t b, int64_t) {
    int64_t* cursor = cursors.data() + b * tiles;
    each(b, [&](int32_t, int64_t, int32_t tile) { ++cursor[tile]; });
  });
  int64_t position = first_entry;
  for (int64_t t = 0; t < tiles; ++t) {
    tile_offsets[t] = position;
    for (int64_t p = 0; p < parts; ++p) position += std::exchange(cursors[p * tiles + t], position);
  }
  cpu::parallel_for(parts, 1, [&](int64_t b, int64_t) {
    int64_t* cursor = cursors.data() + b * tiles;
    each(b, [&](int32_t i, int64_t j, int32_t tile) {
      slots[cursor[tile]++] = static_cast<int32_t>(touches.splat_offsets[i] + j);
    });
  });
}

// Entries and masks of the sorted slots.
void fill_entries(const std::vector<TouchPiece>& pieces, const int64_t* splat_offsets, int64_t splats, int64_t total,
                  const int32_t* slots, int32_t* entries, int16_t* masks) {
  struct Touch {
    int32_t splat;
    int16_t mask;
  };
  std::unique_ptr<Touch[]> by_slot(new Touch[total]);
  cpu::parallel_for(splats, kTouchPiece, [&](int64_t b, int64_t e) {
    const int16_t* mask = pieces[b / kTouchPiece].masks;
    for (int64_t i = b; i < e; ++i)
      for (int64_t slot = splat_offsets[i]; slot < splat_offsets[i + 1]; ++slot)
        by_slot[slot] = {static_cast<int32_t>(i), *mask++};
  });
  cpu::parallel_for(total, 1 << 14, [&](int64_t b, int64_t e) {
    for (int64_t at = b; at < e; ++at) {
      const Touch& touch = by_slot[slots[at]];
      entries[at] = touch.splat;
      masks[at] = touch.mask;
    }
  });
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct Lists {
  Tensor tile_offsets, entries, masks, slots;
};
Lists new_lists(const Tensor& like, int64_t tiles, int64_t total) {
  STD_TORCH_CHECK(total < std::numeric_limits<int32_t>::max(), "the splats touch ", total,
                  " tiles, more than 2^31 - 1; render fewer cameras at once or a smaller image");
  return {torch::stable::new_empty(like, {tiles + 1}, ScalarType::Long),
          torch::stable::new_empty(like, {total}, ScalarType::Int),
          torch::stable::new_empty(like, {total}, ScalarType::Short),
          torch::stable::new_empty(like, {total}, ScalarType::Int)};
}

// room: lengths of the lists, or entries < 0: as long as it takes, which the GPU must be asked for.
Results bin_on_cuda(const cuda::BinParams& p, const Tensor& like, cuda::BinSizes room, Tensor& splat_offsets,
                    Tensor& totals) {
  Lists lists = new_lists(like, 0, 0);
  run_where(
      like, [] {},
      [&](CudaCall& call) {
        auto* device_totals = reinterpret_cast<cuda::BinSizes*>(out<int64_t>(totals));
        const cuda::BinCounts counts =
            cuda::bin_count(p, call.arena(), out<int64_t>(splat_offsets), device_totals, call.stream);
        if (room.entries < 0) {
          room = cuda::read_totals(device_totals, call.stream);
          STD_TORCH_CHECK(room.entries != -2,
                          "bin reads the number of entries, which a CUDA graph cannot capture; give the lists a room "
                          "(RenderOptions(room=...), see docs/backends.md)");
          if (room.entries < 0) check_cuda();
        }
        lists = new_lists(like, p.cameras * p.grid.tiles(), room.entries);
        cuda::bin_fill(p, call.arena(), counts,
                       {out<int64_t>(lists.tile_offsets), out<int32_t>(lists.entries), out<int16_t>(lists.masks),
                        out<int32_t>(lists.slots), room},
                       call.stream);
      });
  return {lists.tile_offsets, lists.entries, lists.masks, splat_offsets, lists.slots, totals};
}

// The unused end of the lists.
void pad_lists(Lists& lists, int64_t used) {
  const int64_t rest = lists.entries.size(0) - used;
  std::fill_n(out<int32_t>(lists.entries) + used, rest, -1);
  std::fill_n(out<int16_t>(lists.masks) + used, rest, int16_t{0});
  std::fill_n(out<int32_t>(lists.slots) + used, rest, -1);
}

Results bin(const Tensor& means2d_in, const Tensor& conics_in, const Tensor& opacities_in, const Tensor& radii_in,
            const OptTensor& depths_in, const OptTensor& ids_in, const OptTensor& colors_in, int64_t width,
            int64_t height, double cutoff, int64_t room_entries, int64_t room_visible) {
  const int64_t C = means2d_in.dim() == 3 ? means2d_in.size(0) : -1, N = C >= 0 ? means2d_in.size(1) : -1;
  check_shape(means2d_in, "means2d", {-1, -1, 2}, "[C, N, 2]");
  check_shape(conics_in, "conics", {C, N, 3}, "[C, N, 3]");
  check_shape(opacities_in, "opacities", {C, N}, "[C, N]");
  check_shape(radii_in, "radii", {C, N, 2}, "[C, N, 2]");
  if (depths_in) check_shape(*depths_in, "depths", {C, N}, "[C, N]");
  if (ids_in) check_shape(*ids_in, "ids", {N}, "[N]");
  if (colors_in) check_shape(*colors_in, "colors", {C, N, -1}, "[C, N, D]"), check_float32(*colors_in, "colors");
  check_float32(means2d_in, "means2d");
  check_float32(conics_in, "conics");
  check_float32(opacities_in, "opacities");
  check_dtype(radii_in, "radii", ScalarType::Int, "int32");
  STD_TORCH_CHECK(width > 0 && height > 0 && width <= (1 << 20) && height <= (1 << 20),
                  "width and height must be in 1 .. 1048576, got ", width, " x ", height);
  STD_TORCH_CHECK(cutoff > 0, "cutoff must be positive, got ", cutoff);
  const TileGrid grid{static_cast<int32_t>(width), static_cast<int32_t>(height)};
  STD_TORCH_CHECK(C * grid.tiles() < std::numeric_limits<int32_t>::max(), "cameras x tiles must be below 2^31, got ",
                  C * grid.tiles(), "; render fewer cameras at once or a smaller image");
  STD_TORCH_CHECK(C * N < std::numeric_limits<int32_t>::max(), "cameras x Gaussians must be below 2^31, got ", C * N);

  const Tensor means2d = dense(means2d_in), conics = dense(conics_in), opacities = dense(opacities_in);
  const Tensor radii = dense(radii_in);
  const OptTensor depths = depths_in ? OptTensor(dense(*depths_in)) : std::nullopt;
  const OptTensor ids = ids_in ? OptTensor(dense(*ids_in)) : std::nullopt;
  const OptTensor colors = colors_in ? OptTensor(dense(*colors_in)) : std::nullopt;
  const SplatArrays splats{in<float>(means2d), in<float>(conics),
                           in<float>(opacities), in<int32_t>(radii),
                           C * N, colors ? in<float>(*colors) : nullptr,
                           colors ? static_cast<int32_t>(colors->size(2)) : 0};

  Tensor splat_offsets = torch::stable::new_empty(radii, {C * N + 1}, ScalarType::Long);
  Tensor totals = torch::stable::new_empty(radii, {2}, ScalarType::Long);
  if (radii.is_cuda()) {
    const cuda::BinParams p{splats, grid, static_cast<int32_t>(C), static_cast<float>(cutoff),
                            depths ? in<float>(*depths) : nullptr, ids ? in<int64_t>(*ids) : nullptr};
    return bin_on_cuda(p, radii, {room_entries, room_visible}, splat_offsets, totals);
  }

  // 1. What each splat touches.
  int64_t* offsets = out<int64_t>(splat_offsets);
  Pieces pieces(new std::vector<TouchPiece>((C * N + kTouchPiece - 1) / kTouchPiece, TouchPiece{nullptr, nullptr, 0, 0}));
  cpu::parallel_for(splats.count, kTouchPiece, [&](int64_t b, int64_t e) {
    cpu::kernels().touch(splats, grid, static_cast<float>(cutoff), b, e, (*pieces)[b / kTouchPiece], offsets);
  });

  // 2. Drawing order per camera, while `offsets` still holds the counts; then the counts become offsets.
  std::vector<std::vector<int32_t>> orders(C);
  std::vector<int64_t> visible(C, 0);
  cpu::parallel_for(C, 1, [&](int64_t b, int64_t) {
    orders[b].resize(N);
    cpu::drawing_order(depths ? in<float>(*depths) + b * N : nullptr, ids ? in<int64_t>(*ids) : nullptr,
                       offsets + b * N, N, orders[b].data(), visible[b]);
  });
  int64_t total = 0, drawn = 0;
  for (int64_t v : visible) drawn += v;
  for (int64_t i = 0; i < C * N; ++i) total += std::exchange(offsets[i], total);
  offsets[C * N] = total;
  out<int64_t>(totals)[0] = total;
  out<int64_t>(totals)[1] = drawn;

  // 3. By tile.
  Lists lists = new_lists(radii, C * grid.tiles(), room_entries < 0 ? total : room_entries);
  int64_t* tile_offsets = out<int64_t>(lists.tile_offsets);
  if (room_entries >= 0 && (total > room_entries || drawn > room_visible)) {
    std::fill_n(offsets, C * N + 1, 0);
    std::fill_n(tile_offsets, C * grid.tiles() + 1, 0);
    pad_lists(lists, 0);
    return {lists.tile_offsets, lists.entries, lists.masks, splat_offsets, lists.slots, totals};
  }
  for (int64_t c = 0; c < C; ++c)
    sort_by_tile({pieces->data(), offsets + c * N, c * N}, orders[c], visible[c], grid.tiles(), offsets[c * N],
                 tile_offsets + c * grid.tiles(), out<int32_t>(lists.slots));
  tile_offsets[C * grid.tiles()] = total;
  fill_entries(*pieces, offsets, C * N, total, out<int32_t>(lists.slots), out<int32_t>(lists.entries),
               out<int16_t>(lists.masks));
  pad_lists(lists, total);
  return {lists.tile_offsets, lists.entries, lists.masks, splat_offsets, lists.slots, totals};
}

}  // namespace
}  // namespace splat

STABLE_TORCH_LIBRARY_IMPL(splat, CPU, m) { SPLAT_IMPL(m, bin); }
STABLE_TORCH_LIBRARY_IMPL(splat, CUDA, m) { SPLAT_IMPL(m, bin); }
