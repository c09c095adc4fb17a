// The Gaussians of the page, and where they lie on the screen.
//
// A view {x, y, zoom} is the point of the picture at the screen's upper left corner, and screen pixels per picture pixel.

/** @typedef {{x: number, y: number, zoom: number}} View */

const SQUARES = { light: 0.82, dark: 0.66, side: 8 };  // what shows through where alpha is below 1

/** What Python wrote: the description, and each column with its numbers decoded to Float32Array. */
function readModel(about, base64) {
  const text = atob(base64), raw = new Uint8Array(text.length);
  for (let i = 0; i < raw.length; i++) raw[i] = text.charCodeAt(i);
  const numbers = about.encoding === "float32" ? new Float32Array(raw.buffer) : new Uint16Array(raw.buffer);
  const columns = about.columns.map(({ low, step }, k) => {
    const part = numbers.subarray(k * about.count, (k + 1) * about.count);
    return about.encoding === "float32" ? part : Float32Array.from(part, q => low + step * q);
  });
  const [x, y, scale0, scale1, rotation, ...colors] = columns;
  return { ...about, channels: colors.length, x, y, sd0: scale0.map(Math.exp), sd1: scale1.map(Math.exp), rotation, colors };
}

/** A table of rows of eight that grows. */
class Rows {
  values = new Float64Array(8 * 256);
  kept = 0;

  add(row) {
    if (8 * this.kept === this.values.length) {
      const longer = new Float64Array(2 * this.values.length);
      longer.set(this.values);
      this.values = longer;
    }
    this.values.set(row, 8 * this.kept++);
  }
}

/**
 * The first `count` Gaussians that touch the screen: their covariance there is zoom^2 times the picture's, plus the
 * dilation, which also lowers the peak as it widens the area (as splat's own render does).
 * A row each: mean x and y, vertical variance, shear (move of a row's centre per pixel down), precision along a row,
 * peak, budget 2 ln(peak / cutoff), index.
 */
function project(model, view, width, height, count) {
  const found = new Rows();
  for (let i = 0; i < count; i++) {
    const s0 = (view.zoom * model.sd0[i]) ** 2, s1 = (view.zoom * model.sd1[i]) ** 2;
    const v0 = s0 + model.dilation, v1 = s1 + model.dilation;
    const peak = Math.sqrt(s0 / v0 * (s1 / v1)), budget = 2 * Math.log(peak / model.cutoff);
    if (!(budget >= 0)) continue;
    const mx = (model.x[i] - view.x) * view.zoom, my = (model.y[i] - view.y) * view.zoom;
    const reach = Math.sqrt(budget * Math.max(v0, v1));
    if (mx + reach < 0 || my + reach < 0 || mx - reach > width || my - reach > height) continue;
    const cos = Math.cos(model.rotation[i]), sin = Math.sin(model.rotation[i]);
    const xy = (v0 - v1) * cos * sin, yy = v0 * sin * sin + v1 * cos * cos;
    found.add([mx, my, yy, xy / yy, yy / (v0 * v1), peak, budget, i]);
  }
  return found;
}

/** The picture's edges on the screen: [left, top, right, bottom]. */
function frame(model, view) {
  const left = -view.x * view.zoom, top = -view.y * view.zoom;
  return [left, top, left + model.width * view.zoom, top + model.height * view.zoom];
}
