#version 300 es
// A Gaussian on the screen: the rectangle along its axes that holds all weights from the cut-off on. y runs down, so that
// the first row of the target is the top of the screen.
precision highp float;
uniform vec2 origin_high, origin_low;  // the screen's corner, pixels of the picture; their sum is a float64
uniform vec2 size;                     // of the screen, pixels
uniform float zoom, dilation, cutoff;
in vec2 mean, deviations;
in float angle;
in vec4 color;
flat out vec2 centre, along, across;   // pixels of the screen; axes divided by the standard deviations
flat out float peak;
flat out vec4 value;

void main() {
  vec2 sharp = zoom * deviations, drawn = sqrt(sharp * sharp + dilation);
  peak = sharp.x / drawn.x * (sharp.y / drawn.y);
  value = color;
  centre = ((mean - origin_high) - origin_low) * zoom;
  vec2 axis = vec2(cos(angle), sin(angle));
  along = axis / drawn.x;
  across = vec2(-axis.y, axis.x) / drawn.y;
  if (!(peak >= cutoff)) {
    gl_Position = vec4(2.0, 2.0, 0.0, 1.0);  // outside: not drawn
    return;
  }
  vec2 reach = drawn * sqrt(2.0 * log(peak / cutoff)) * (2.0 * vec2(gl_VertexID & 1, gl_VertexID >> 1) - 1.0);
  vec2 corner = centre + reach.x * axis + reach.y * vec2(-axis.y, axis.x);
  gl_Position = vec4(2.0 * corner / size - 1.0, 0.0, 1.0);
}
