// Draws on the processor: where there is no WebGL2 with float targets, for blend "topk", and for the value at the cursor.

const BAND = 64;         // rows of samples at a time
const QUICK_MS = 50;     // what a picture may take while the view moves
const PIECE_MS = 20;     // how long the page waits for a piece of the full picture
const REST_MS = 120;     // after a move

/** Calls visit(index in the band, Gaussian, weight) for all samples of a Gaussian in rows top .. bottom - 1. Samples lie
 * `stride` pixels apart. Along a row the weights follow from each other by two products. */
function visitWeights(splats, k, columns, top, bottom, stride, visit) {
  const values = splats.values, row = 8 * k;
  const mx = values[row], my = values[row + 1], yy = values[row + 2], shear = values[row + 3];
  const precision = values[row + 4], peak = values[row + 5], budget = values[row + 6];
  const ry = Math.sqrt(budget * yy);
  const first = Math.max(top, Math.ceil((my - ry) / stride - 0.5));
  const last = Math.min(bottom - 1, Math.floor((my + ry) / stride - 0.5));
  const bend = Math.exp(-precision * stride * stride);
  for (let j = first; j <= last; j++) {
    const dy = (j + 0.5) * stride - my, left = budget - dy * dy / yy;
    if (left < 0) continue;
    const middle = mx + shear * dy, half = Math.sqrt(left / precision);
    const begin = Math.max(0, Math.ceil((middle - half) / stride - 0.5));
    const end = Math.min(columns - 1, Math.floor((middle + half) / stride - 0.5));
    const u = (begin + 0.5) * stride - middle;
    let weight = peak * Math.exp(-0.5 * (dy * dy / yy + precision * u * u));
    let ratio = Math.exp(-precision * stride * (u + 0.5 * stride));
    for (let i = begin, at = (j - top) * columns + begin; i <= end; i++, at++) {
      visit(at, k, weight);
      weight *= ratio;
      ratio *= bend;
    }
  }
}

/** Adds weight times colour into `band`, [rows, columns, channels]. */
function bandSum(model, splats, columns, top, bottom, stride, band) {
  const D = model.channels, colors = model.colors;
  band.fill(0);
  for (let k = 0; k < splats.kept; k++) {
    const row = splats.values[8 * k + 7];
    const c0 = colors[0][row], c1 = D > 1 ? colors[1][row] : 0, c2 = D > 1 ? colors[2][row] : 0;
    const c3 = D > 3 ? colors[3][row] : 0;
    visitWeights(splats, k, columns, top, bottom, stride, (at, _, weight) => {
      const to = at * D;
      band[to] += weight * c0;
      if (D > 1) { band[to + 1] += weight * c1; band[to + 2] += weight * c2; }
      if (D > 3) band[to + 3] += weight * c3;
    });
  }
}

/** The `topk` largest weights of a sample, normalised: sum of w c over (sum of w + epsilon). */
function bandTopK(model, splats, columns, top, bottom, stride, band) {
  const D = model.channels, K = model.topk, samples = (bottom - top) * columns;
  const weights = new Float32Array(samples * K), owners = new Int32Array(samples * K);
  const least = new Int32Array(samples), held = new Int32Array(samples);  // slot of the smallest of those held
  const settle = at => {
    let low = 0;
    for (let s = 1; s < K; s++) if (weights[at * K + s] < weights[at * K + low]) low = s;
    least[at] = low;
  };
  for (let k = 0; k < splats.kept; k++)
    visitWeights(splats, k, columns, top, bottom, stride, (at, owner, weight) => {
      const full = held[at] === K, slot = at * K + (full ? least[at] : held[at]);
      if (full && !(weight > weights[slot])) return;
      weights[slot] = weight;
      owners[slot] = splats.values[8 * owner + 7];
      if (!full) held[at]++;
      if (held[at] === K) settle(at);
    });
  for (let at = 0; at < samples; at++) {
    let total = 0;
    for (let s = 0; s < held[at]; s++) total += weights[at * K + s];
    for (let d = 0; d < D; d++) {
      let value = 0;
      for (let s = 0; s < held[at]; s++) value += weights[at * K + s] * model.colors[d][owners[at * K + s]];
      band[at * D + d] = value / (total + model.topk_epsilon);
    }
  }
}

const BANDS = { sum: bandSum, topk: bandTopK };

/** The channels at the middle of a pixel of the screen. */
function valueAt(model, view, count, px, py) {
  const at = { x: view.x + px / view.zoom, y: view.y + py / view.zoom, zoom: view.zoom };
  const band = new Float32Array(model.channels);
  BANDS[model.blend](model, project(model, at, 1, 1, count), 1, 0, 1, 1, band);
  return band;
}

/** Sums as 8-bit RGBA, nothing outside the picture. The twin of screen.frag.glsl. */
function shade(model, band, columns, top, bottom, stride, edges, pixels) {
  const D = model.channels, [left, up, right, down] = edges;
  for (let j = top; j < bottom; j++) {
    const y = (j + 0.5) * stride;
    for (let i = 0; i < columns; i++) {
      const x = (i + 0.5) * stride, from = ((j - top) * columns + i) * D, to = (j * columns + i) * 4;
      if (x < left || y < up || x > right || y > down) {
        pixels.fill(0, to, to + 4);
        continue;
      }
      let behind = 0;
      if (D === 4) {
        const even = (Math.floor(x / SQUARES.side) + Math.floor(y / SQUARES.side)) % 2 === 0;
        behind = (1 - band[from + 3]) * (even ? SQUARES.light : SQUARES.dark);
      }
      for (let d = 0; d < 3; d++) pixels[to + d] = 255 * (band[from + (D > 1 ? d : 0)] + behind);
      pixels[to + 3] = 255;
    }
  }
}

class CanvasRenderer {
  name = "on the processor";

  constructor(model) {
    this.model = model;
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    this.small = document.createElement("canvas");
    this.msPerSample = 1e-3;
    this.job = null;
    this.timer = 0;
  }

  resize(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
  }

  /** Draws coarsely at once where the whole takes long, then all pixels in pieces. */
  draw(view, count) {
    const { width, height } = this.canvas;
    this.stop();
    const stride = Math.min(8, Math.ceil(Math.sqrt(this.msPerSample * width * height / QUICK_MS)));
    const began = performance.now();
    for (const _ of this.paint(view, count, stride));
    const spent = (performance.now() - began) / (Math.ceil(width / stride) * Math.ceil(height / stride));
    this.msPerSample = stride === 1 ? spent : 0.5 * (this.msPerSample + spent);
    if (stride === 1) return;
    this.job = this.paint(view, count, 1);
    this.timer = setTimeout(() => this.work(), REST_MS);
  }

  /** Ends what `draw` began, now. */
  finish() {
    if (this.job) for (const _ of this.job);
    this.stop();
  }

  stop() {
    clearTimeout(this.timer);
    this.job = null;
  }

  dispose() {
    this.stop();
  }

  work() {
    const end = performance.now() + PIECE_MS;
    while (performance.now() < end) if (this.job.next().done) return this.stop();
    this.timer = setTimeout(() => this.work());
  }

  /** A generator that paints a band of rows at each step. */
  *paint(view, count, stride) {
    const { model, context, canvas } = this;
    const columns = Math.ceil(canvas.width / stride), rows = Math.ceil(canvas.height / stride);
    const edges = frame(model, view), splats = project(model, view, canvas.width, canvas.height, count);
    const image = new ImageData(columns, rows), band = new Float32Array(BAND * columns * model.channels);
    for (let top = 0; top < rows; top += BAND) {
      const bottom = Math.min(rows, top + BAND);
      BANDS[model.blend](model, splats, columns, top, bottom, stride, band);
      shade(model, band, columns, top, bottom, stride, edges, image.data);
      if (stride === 1) context.putImageData(image, 0, 0, 0, top, columns, bottom - top);
      yield;
    }
    if (stride === 1) return;
    this.small.width = columns;
    this.small.height = rows;
    this.small.getContext("2d").putImageData(image, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.small, 0, 0, columns * stride, rows * stride);
  }
}
