// L1 + SSIM on the CPU. A strip of rows at a time: each row's products are blurred along x (a row is W * D contiguous
// floats, so a horizontal tap is a shift by D), then eleven such rows are combined along y. Everything stays in L2.
#include <cstring>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"
#include "splat/ssim.h"

SPLAT_KERNEL(l1_ssim, const SsimParams&, double*)
SPLAT_KERNEL(l1_ssim_backward, const SsimParams&, float, float, float*)

namespace splat::cpu::SPLAT_ISA {
namespace {

constexpr int kHalf = kSsimTaps / 2;
constexpr int64_t kStrip = 64;  // rows; the window reads 5 (backward: 10) more on each side

// A row of floats with kHalf pixels of zeros on each side, so that the blur needs no borders.
struct Layout {
  int64_t values, padding, stride;
  explicit Layout(const SsimParams& p)
      : values(int64_t(p.width) * p.channels), padding(int64_t(kHalf) * p.channels), stride(values + 2 * padding + 16) {}
};

// in: padded row; out: blurred along x.
void blur_row(const float* __restrict in, int64_t values, int64_t channels, float* __restrict out) {
  const float* centre = in + kHalf * channels;
  for (int64_t i = 0; i < values; ++i) {
    float sum = ssim_window(0) * centre[i];
    for (int k = 1; k <= kHalf; ++k) sum += ssim_window(k) * (centre[i - k * channels] + centre[i + k * channels]);
    out[i] = sum;
  }
}

// rows: kSsimTaps rows of blurred values around the wanted one.
void blur_column(const float* const* rows, int64_t values, float* __restrict out) {
  const float *a = rows[kHalf], *b1 = rows[kHalf - 1], *c1 = rows[kHalf + 1], *b2 = rows[kHalf - 2],
              *c2 = rows[kHalf + 2], *b3 = rows[kHalf - 3], *c3 = rows[kHalf + 3], *b4 = rows[kHalf - 4],
              *c4 = rows[kHalf + 4], *b5 = rows[kHalf - 5], *c5 = rows[kHalf + 5];
#pragma GCC ivdep
  for (int64_t i = 0; i < values; ++i)
    out[i] = ssim_window(0) * a[i] + ssim_window(1) * (b1[i] + c1[i]) + ssim_window(2) * (b2[i] + c2[i]) +
             ssim_window(3) * (b3[i] + c3[i]) + ssim_window(4) * (b4[i] + c4[i]) + ssim_window(5) * (b5[i] + c5[i]);
}

// Blurs `fields` quantities along x and y: a ring of rows already blurred along x, asked for row by row.
template <int kFields>
class Blur {
 public:
  Blur(const Layout& layout, int64_t channels)
      : layout_(layout), channels_(channels), ring_(kFields * kSsimTaps * layout.values),
        zero_(layout.values, 0), padded_(kFields * layout.stride, 0), out_(kFields * layout.values) {}

  // fill(y, padded rows): writes the kFields quantities of row y at padded + padding. The window's rows from y - 5 to
  // y + 5 must be asked for in rising order of y.
  template <class Fill>
  void advance(int64_t y, int64_t height, bool first, Fill&& fill) {
    const int64_t from = first ? y - kHalf : y + kHalf;
    for (int64_t r = from; r <= y + kHalf; ++r) {
      if (r < 0 || r >= height) continue;
      fill(r, padded_.data + layout_.padding);
      for (int f = 0; f < kFields; ++f)
        blur_row(padded_.data + f * layout_.stride, layout_.values, channels_, row(f, r));
    }
    const float* rows[kSsimTaps];
    for (int f = 0; f < kFields; ++f) {
      for (int k = 0; k < kSsimTaps; ++k) {
        const int64_t r = y + k - kHalf;
        rows[k] = r < 0 || r >= height ? zero_.data : row(f, r);
      }
      blur_column(rows, layout_.values, out_.data + f * layout_.values);
    }
  }
  const float* field(int f) const { return out_.data + f * layout_.values; }

 private:
  float* row(int f, int64_t r) { return ring_.data + (f * kSsimTaps + r % kSsimTaps) * layout_.values; }
  Layout layout_;
  int64_t channels_;
  Scratch<float> ring_, zero_, padded_, out_;
};

// Rows of the pair that a strip's blur reads.
struct Pair {
  const float *image, *target;
  int64_t values;
  void operator()(int64_t y, float* out, int64_t stride) const {
    const float* __restrict a = image + y * values;
    const float* __restrict b = target + y * values;
    float* __restrict mu1 = out;
    float* __restrict mu2 = out + stride;
    float* __restrict squares = out + 2 * stride;
    float* __restrict product = out + 3 * stride;
    for (int64_t i = 0; i < values; ++i) {
      mu1[i] = a[i];
      mu2[i] = b[i];
      squares[i] = a[i] * a[i] + b[i] * b[i];
      product[i] = a[i] * b[i];
    }
  }
};

// The part of a row, in floats, whose SSIM is averaged.
struct Counted {
  int64_t begin, end;
  Counted(const SsimParams& p, int64_t y) : begin(0), end(int64_t(p.width) * p.channels) {
    if (!p.valid || p.width < kSsimTaps || p.height < kSsimTaps) return;
    const bool inside = y >= kHalf && y < p.height - kHalf;
    begin = inside ? int64_t(kHalf) * p.channels : 0;
    end = inside ? end - begin : 0;
  }
};

// Sixteen sums side by side: vectors for the compiler, and one fixed order.
template <class F>
SPLAT_HD void lane_sums(int64_t begin, int64_t end, float* sums, F&& value) {
  int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    for (int k = 0; k < 16; ++k) sums[k] += value(i + k);
  for (int k = 0; i < end; ++i, ++k) sums[k] += value(i);
}

int64_t strips(const SsimParams& p) { return (p.height + kStrip - 1) / kStrip; }

}  // namespace

void l1_ssim(const SsimParams& p, double* sums) {
  const Layout layout(p);
  const int64_t pieces = p.batch * strips(p), image_values = layout.values * p.height;
  Scratch<double> partial(2 * pieces, 0);
  parallel_for(pieces, 1, [&](int64_t piece, int64_t) {
    const int64_t b = piece / strips(p), y0 = piece % strips(p) * kStrip;
    const int64_t y1 = y0 + kStrip < p.height ? y0 + kStrip : p.height;
    const Pair pair{p.image + b * image_values, p.target + b * image_values, layout.values};
    Blur<4> blur(layout, p.channels);
    for (int64_t y = y0; y < y1; ++y) {
      blur.advance(y, p.height, y == y0, [&](int64_t r, float* out) { pair(r, out, layout.stride); });
      const float *a = pair.image + y * layout.values, *t = pair.target + y * layout.values;
      const float *mu1 = blur.field(0), *mu2 = blur.field(1), *squares = blur.field(2), *product = blur.field(3);
      float l1[16] = {}, total[16] = {};
      const Counted counted(p, y);
      lane_sums(0, layout.values, l1, [&](int64_t i) { return __builtin_fabsf(a[i] - t[i]); });
      lane_sums(counted.begin, counted.end, total,
                [&](int64_t i) { return ssim(mu1[i], mu2[i], squares[i], product[i]); });
      for (int k = 0; k < 16; ++k) partial[2 * piece] += double(l1[k]), partial[2 * piece + 1] += double(total[k]);
    }
  });
  sums[0] = sums[1] = 0.0;
  for (int64_t i = 0; i < pieces; ++i) sums[0] += partial[2 * i], sums[1] += partial[2 * i + 1];
}

void l1_ssim_backward(const SsimParams& p, float v_l1, float v_ssim, float* v_image) {
  const Layout layout(p);
  const int64_t image_values = layout.values * p.height;
  parallel_for(p.batch * strips(p), 1, [&](int64_t piece, int64_t) {
    const int64_t b = piece / strips(p), y0 = piece % strips(p) * kStrip;
    const int64_t y1 = y0 + kStrip < p.height ? y0 + kStrip : p.height;
    const Pair pair{p.image + b * image_values, p.target + b * image_values, layout.values};
    Blur<4> blur(layout, p.channels);
    Blur<3> back(layout, p.channels);
    bool first_row = true;
    // dL/d(windowed means) of row r, zero where SSIM is not averaged. The window is symmetric, so blurring them carries
    // them back to the pixels.
    const auto derivatives = [&](int64_t r, float* out) {
      blur.advance(r, p.height, first_row, [&](int64_t q, float* o) { pair(q, o, layout.stride); });
      first_row = false;
      const float *mu1 = blur.field(0), *mu2 = blur.field(1), *squares = blur.field(2), *product = blur.field(3);
      float* __restrict g1 = out;
      float* __restrict g2 = out + layout.stride;
      float* __restrict g3 = out + 2 * layout.stride;
      const Counted counted(p, r);
      float* const all[] = {g1, g2, g3};
      for (float* g : all) {
        std::memset(g, 0, sizeof(float) * counted.begin);
        std::memset(g + counted.end, 0, sizeof(float) * (layout.values - counted.end));
      }
#pragma GCC ivdep
      for (int64_t i = counted.begin; i < counted.end; ++i) {
        const SsimGradient<float> g = ssim_vjp(mu1[i], mu2[i], squares[i], product[i]);
        g1[i] = g.mu1;
        g2[i] = g.squares;
        g3[i] = g.product;
      }
    };
    for (int64_t y = y0; y < y1; ++y) {
      back.advance(y, p.height, y == y0, derivatives);
      const float *a = pair.image + y * layout.values, *t = pair.target + y * layout.values;
      const float *g1 = back.field(0), *g2 = back.field(1), *g3 = back.field(2);
      float* __restrict v = v_image + b * image_values + y * layout.values;
#pragma GCC ivdep
      for (int64_t i = 0; i < layout.values; ++i) {
        const float sign = float(a[i] > t[i]) - float(a[i] < t[i]);
        v[i] = v_l1 * sign + v_ssim * (g1[i] + 2.0f * a[i] * g2[i] + t[i] * g3[i]);
      }
    }
  });
}

}  // namespace splat::cpu::SPLAT_ISA
