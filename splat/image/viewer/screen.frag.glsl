#version 300 es
// The sums as colours: grey, RGB, or premultiplied RGBA over squares; nothing outside the picture.
precision highp float;
uniform highp sampler2D sums;
uniform vec2 size, picture_low, picture_high;  // pixels of the screen
uniform int channels;
uniform vec3 squares;                          // light, dark, side in pixels
out vec4 shown;

void main() {
  vec2 at = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y);
  if (any(lessThan(at, picture_low)) || any(greaterThan(at, picture_high))) {
    shown = vec4(0.0);
    return;
  }
  vec4 value = texelFetch(sums, ivec2(at), 0);
  if (channels == 1) value = value.rrrr;
  if (channels == 4) {
    ivec2 square = ivec2(at / squares.z);
    value.rgb += (1.0 - value.a) * (((square.x + square.y) & 1) == 0 ? squares.x : squares.y);
  }
  shown = vec4(clamp(value.rgb, 0.0, 1.0), 1.0);
}
