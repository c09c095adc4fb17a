// One-sigma ellipses over the dimmed picture, in the Gaussians' colours.

const MAX_ELLIPSES = 20000;

/** Draws the ellipses that touch the screen and returns {drawn, touching}; of too many, the first. */
function drawEllipses(canvas, model, view, count) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.fillStyle = "rgb(16 16 20 / 0.7)";
  context.fillRect(0, 0, width, height);
  context.lineWidth = devicePixelRatio * Math.min(1.2, Math.max(0.5, 0.5 * view.zoom / devicePixelRatio));
  let drawn = 0, touching = 0;
  for (let i = 0; i < count; i++) {
    const x = (model.x[i] - view.x) * view.zoom, y = (model.y[i] - view.y) * view.zoom;
    const a = view.zoom * model.sd0[i], b = view.zoom * model.sd1[i], r = Math.max(a, b);
    if (!(x + r > 0 && y + r > 0 && x - r < width && y - r < height)) continue;
    if (touching++ >= MAX_ELLIPSES) continue;
    drawn++;
    context.strokeStyle = outline(model, i);
    context.beginPath();
    context.ellipse(x, y, a, b, model.rotation[i], 0, 2 * Math.PI);
    context.stroke();
  }
  return { drawn, touching };
}

/** The colour's hue at a brightness that shows on a dark ground. */
function outline(model, i) {
  const color = [0, 1, 2].map(d => Math.abs(model.colors[model.channels > 1 ? d : 0][i]));
  const most = Math.max(...color, 1e-6);
  return `rgb(${color.map(c => Math.round(255 * (0.25 + 0.75 * c / most))).join(" ")})`;
}
