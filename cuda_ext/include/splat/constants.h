// Every constant of the renderer, once, with its reason. They equal gsplat 1.5.3, so that results can be compared.
#pragma once

namespace splat {

// Pixels per tile side. 16 is the field's common choice; the CPU kernels split a tile into 4x4 blocks of 16 lanes.
constexpr int kTile = 16;

// A splat is skipped where alpha < 1/255: it could not change an 8-bit picture.
constexpr float kAlphaMin = 1.0f / 255.0f;

// Upper bound of alpha. Below 1 so that 1 / (1 - alpha) in the backward pass stays finite.
constexpr float kAlphaMax = 0.999f;

// A pixel stops before the splat that would take its transmittance to this value or below.
constexpr float kTransmittanceMin = 1e-4f;

// Low-pass filter added to the diagonal of the projected covariance, in pixels^2 (EWA splatting, Zwicker 2001).
constexpr float kDilation = 0.3f;

// Largest extent of a splat in standard deviations: sqrt(2 ln 255) = 3.33, where an opaque splat falls under kAlphaMin.
constexpr float kExtentSigmas = 3.33f;

// Projection clamps x/z and y/z to this multiple of the half field of view before the Jacobian is taken, as in 3DGS:
// the affine approximation explodes at grazing angles.
constexpr float kFovMargin = 0.3f;

// Least ratio det(cov) / det(cov + dilation) that the antialiased mode scales opacity by (before the square root's
// argument becomes too small for a finite gradient).
constexpr float kCompensationMin = 0.005f;

// Spherical harmonics up to this degree.
constexpr int kMaxShDegree = 4;

}  // namespace splat
