#version 300 es
// The weight of a Gaussian at a pixel, times its colour; the blending adds them up.
precision highp float;
uniform float cutoff;
flat in vec2 centre, along, across;
flat in float peak;
flat in vec4 value;
out vec4 sum;

void main() {
  vec2 d = gl_FragCoord.xy - centre;
  vec2 u = vec2(dot(d, along), dot(d, across));
  float weight = peak * exp(-0.5 * dot(u, u));
  if (weight < cutoff) discard;
  sum = weight * value;
}
