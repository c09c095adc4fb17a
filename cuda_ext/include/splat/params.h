// One plain struct per stage, passed by value to the kernels of every backend. Shapes as in torch/schema.cpp.
#pragma once
#include <cstdint>

#include "splat/blend.h"
#include "splat/constants.h"

namespace splat {

// Pixel size of the pictures, and their tiles.
struct TileGrid {
  int32_t width, height;
  SPLAT_HD int32_t tiles_x() const { return (width + kTile - 1) / kTile; }
  SPLAT_HD int32_t tiles_y() const { return (height + kTile - 1) / kTile; }
  SPLAT_HD int64_t tiles() const { return int64_t(tiles_x()) * tiles_y(); }
};

// Projected splats of all cameras, flat: index = camera * N + Gaussian.
struct SplatArrays {
  const float* means2d;    // [S, 2] pixels
  const float* conics;     // [S, 3]
  const float* opacities;  // [S]
  const int32_t* radii;    // [S, 2]; a splat with radius 0 is culled. Null: none is
  int64_t count;           // S
  const float* colors = nullptr;  // [S, channels]; a splat with a colour that is not finite is not listed. Null: unknown
  int32_t channels = 0;
};

// The tile lists, as bin() returns them.
struct TileListArrays {
  const int64_t* tile_offsets;   // [C * tiles + 1]
  const int32_t* entries;        // [M] splat
  const int16_t* masks;          // [M] the 4x4 blocks of the tile that the splat touches
  const int64_t* splat_offsets;  // [S + 1]
  const int32_t* slots;          // [M] position of the entry when entries are grouped by splat
  int64_t count;                 // M
};

struct RasterizeParams {
  TileGrid grid;
  int32_t cameras, channels;
  Blend blend;
  int32_t topk;
  float cutoff;
  SplatArrays splats;
  const float* colors;       // [S, D]
  const float* backgrounds;  // [C, D] or null
  TileListArrays lists;
  float* image;   // [C, H, W, D] (read by the backward pass of topk)
  float* alphas;  // [C, H, W]
  int32_t* last;  // [C, H, W] alpha: last entry drawn, counted from the tile's first; topk: the K-th largest
  float* norm;    // alpha: [C, 1, H, W] final transmittance; topk: [C, 2, H, W] K-th largest weight, normaliser
};

struct RasterizeGrads {
  const float* v_image;   // [C, H, W, D] or null: zeros
  const float* v_alphas;  // [C, H, W] or null: zeros
  float* v_means2d;       // [S, 2]
  float* v_conics;        // [S, 3]
  float* v_opacities;     // [S]
  float* v_colors;        // [S, D]
  float* v_means2d_abs;   // [S, 2] or null
};

// Weighted least-squares fit of order-free splats. "Tiled": a tile's values together, in the order of its pixels
// (cpu/tile.h).
struct L2Params {
  const float* target;      // [C * tiles, D, 256] tiled
  const float* weights;     // [C * tiles, weight_channels, 256] tiled, or null: 1
  int32_t weight_channels;  // D, or 1 for all channels alike
  float* residual;          // [C * tiles, D, 256] tiled, weight * (target - image), which is -dL/dimage
  double* squared_errors;   // [C * tiles, 2] weighted sums of the squared errors of the image, and of it clamped to 0..1
  // Where the weight of a pixel's channel lies. tile: number of the tile; pixel: its place in it.
  SPLAT_HD int64_t weight_at(int64_t tile, int channel, int pixel) const {
    return (tile * weight_channels + (weight_channels > 1 ? channel : 0)) * (kTile * kTile) + pixel;
  }
};

// Numbers of dL/d(camera): 12 of the view matrix (rows of [R t]), then fx, fy, cx, cy.
constexpr int kCameraSums = 16;

// 3D front end. T is float, or double for gradient checks. raw: scales and opacities are as models store them, and the
// gradients are those of the stored values.
template <class T>
struct ProjectParams {
  const T* means;      // [N, 3] world
  const T* quats;      // [N, 4] wxyz, or null with covars
  const T* scales;     // [N, 3], or null with covars; logs of them where `raw`
  const T* covars;     // [N, 3, 3], or null
  const T* opacities;  // [N] in 0..1, or logits where `raw`
  const T* viewmats;   // [C, 4, 4] world to camera
  const T* Ks;         // [C, 3, 3] pixels
  int64_t count;       // N
  int32_t cameras, width, height;
  T eps2d, near_plane, far_plane, radius_clip;
  int32_t camera_model;  // CameraModel
  bool antialiased, raw;
  int32_t* radii;  // [C, N, 2] (read by the backward pass)
  T* means2d;      // [C, N, 2]
  T* depths;       // [C, N]
  T* conics;       // [C, N, 3]
  T* opacities2d;  // [C, N]
};
template <class T>
struct ProjectGrads {
  const T* v_means2d;
  const T* v_depths;
  const T* v_conics;
  const T* v_opacities2d;
  T* v_means;
  T* v_quats;   // null with covars
  T* v_scales;  // null with covars
  T* v_covars;  // null without
  T* v_opacities;
  T* v_viewmats;
  T* v_Ks;
};

// Colours from spherical harmonics. shN may be strided (a view of a larger tensor).
template <class T>
struct ShParams {
  const T* means;       // [N, 3]
  const T* viewmats;    // [C, 4, 4]
  const T* sh0;         // [N, 1, D]
  const T* shN;         // [N, (degree + 1)^2 - 1 or more, D]
  const int32_t* radii; // [C, N, 2]
  int64_t count, stride;  // N, values per row of shN
  int32_t cameras, channels, degree;
  T* colors;  // [C, N, D] (read by the backward pass)
};
template <class T>
struct ShGrads {
  const T* v_colors;
  T* v_means;
  T* v_viewmats;
  T* v_sh0;
  T* v_shN;
};

// 2D front end (images): covariance from scales along two axes at an angle.
struct ProjectImageParams {
  const float* means;       // [N, 2]
  const float* log_scales;  // [N, 2]
  const float* angles;      // [N]
  const float* opacities;   // [N]
  int64_t count;
  TileGrid grid;
  float cutoff, dilation;
  int32_t* radii;      // [N, 2]
  float* conics;       // [N, 3]
  float* opacities2d;  // [N] dimmed by the dilation; 0 where the conic is 0
};
struct ProjectImageGrads {
  const float* log_scales;     // [N, 2]
  const float* angles;         // [N]
  const float* opacities;      // [N]
  const int32_t* radii;        // [N, 2]
  const float* v_conics;       // [N, 3]
  const float* v_opacities2d;  // [N]
  int64_t count;
  float dilation;
  float* v_log_scales;  // [N, 2]
  float* v_angles;      // [N]
  float* v_opacities;   // [N]
};

// L1 and SSIM of image pairs [B, H, W, D].
struct SsimParams {
  const float* image;
  const float* target;
  int32_t batch, height, width, channels;
  bool valid;  // average SSIM only where the window lies inside the picture
};

struct AdamRule {
  float beta1, beta2, epsilon;
};
struct AdamParams {
  float* param;  // [rows, columns], as the next three
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  const int32_t* steps;  // [rows] number of this step for the row, from 1
  int64_t rows, columns;
  AdamRule rule;
  float learning_rate;
};

// What a Gaussian stores, in the order of the arrays below.
enum Stored { kMeans, kQuats, kLogScales, kOpacityLogits, kSh0, kShN, kStored };

// A training step of 3D Gaussians for one camera: gradients of project (raw) and sh, and Adam at once.
struct StepParams {
  ProjectParams<float> project;  // its means, quats, scales and opacities are those of param
  ProjectGrads<float> splats;    // v_means2d, v_depths, v_conics and v_opacities2d alone are set
  ShParams<float> sh;
  const float* v_colors;                                           // [1, N, D]
  float *param[kStored], *exp_avg[kStored], *exp_avg_sq[kStored];  // [N, ...], all values of a Gaussian together
  int32_t* steps;      // [N] steps that the Gaussian has made; counted up here
  const float* rates;  // [kStored] learning rates
  const bool* skip;    // [1] nothing changes where true; or null
  AdamRule rule;
  // Gradients that come on top: of the opacity and of each scale, of a loss that their means are part of.
  float opacity_pull, scale_pull;
  bool visible_only;  // leave Gaussians that the camera does not see as they are, moments too
};

}  // namespace splat
