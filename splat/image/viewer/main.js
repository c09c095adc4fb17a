// The page: what is shown, and how it is moved.

const element = id => document.getElementById(id);
const description = JSON.parse(element("description").textContent);
const model = readModel(description, element("gaussians").textContent);
element("gaussians").textContent = "";  // decoded: need not stay in memory twice

const stage = element("stage"), overlay = element("overlay");
const forced = new URLSearchParams(location.search).get("renderer");
const MAX_ZOOM = 4096;
const SLIDER = 1000;  // steps of the slider of a model without layers
const formatNumber = value => value.toLocaleString("en-US");

const state = {
  /** @type {View} */ view: { x: 0, y: 0, zoom: 1 },
  count: model.count,
  fitted: true,      // whether the view follows the size of the window
  ellipses: false,
  cursor: null,      // pixel of the screen
};
let renderer, whyNot = "", requested = 0;

// Drawing

function chooseRenderer(reason) {
  const before = renderer;
  whyNot = reason;
  renderer = null;
  if (!reason)
    try {
      const lost = () => chooseRenderer("the browser has taken WebGL2 away");
      renderer = new WebGLRenderer(model, SHADERS, lost, forced === "webgl");
    } catch (error) {
      whyNot = error.message;
    }
  renderer ??= new CanvasRenderer(model);
  before?.dispose();
  before?.canvas.remove();
  stage.prepend(renderer.canvas);
  renderer.resize(overlay.width, overlay.height);
  tellNumbers();
  request();
}

function request() {
  requested ||= requestAnimationFrame(() => { requested = 0; drawNow(); });
}

function drawNow() {
  renderer.draw(state.view, state.count);
  let notice = "";
  if (state.ellipses) {
    const { drawn, touching } = drawEllipses(overlay, model, state.view, state.count);
    if (drawn < touching) notice = `${formatNumber(drawn)} of the ${formatNumber(touching)} ellipses here are drawn`;
  }
  overlay.hidden = !state.ellipses;
  element("notice").textContent = notice;
  element("notice").hidden = !notice;
  element("ellipses").setAttribute("aria-pressed", String(state.ellipses));
  const zoom = state.view.zoom;
  element("zoom").textContent = zoom < 10 ? `${Number((100 * zoom).toPrecision(3))} %` : `${Number(zoom.toPrecision(3))} x`;
  tellCursor();
  tellLevel();
}

// The view

const fitZoom = () => Math.min(overlay.width / model.width, overlay.height / model.height);

/** The middle of the screen stays inside the picture. */
function setView(x, y, zoom, fitted = false) {
  const halfX = overlay.width / zoom / 2, halfY = overlay.height / zoom / 2;
  x = Math.min(Math.max(x, -halfX), model.width - halfX);
  y = Math.min(Math.max(y, -halfY), model.height - halfY);
  Object.assign(state, { view: { x, y, zoom }, fitted });
  request();
}

function fit() {
  const zoom = fitZoom();
  setView((model.width - overlay.width / zoom) / 2, (model.height - overlay.height / zoom) / 2, zoom, true);
}

/** Zooms with a point of the screen fixed. */
function zoomAt(factor, px = overlay.width / 2, py = overlay.height / 2) {
  const { x, y, zoom } = state.view;
  const next = Math.min(Math.max(zoom * factor, Math.min(fitZoom(), 1) / 4), Math.max(MAX_ZOOM, fitZoom()));
  setView(x + px / zoom - px / next, y + py / zoom - py / next, next);
}

/** Pixel on pixel: the corner lies on a corner of a pixel. */
function oneToOne() {
  zoomAt(1 / state.view.zoom);
  setView(Math.round(state.view.x), Math.round(state.view.y), 1);
}

function move(px, py) {
  const { x, y, zoom } = state.view;
  setView(x - Math.round(px) / zoom, y - Math.round(py) / zoom, zoom);
}

/** Follows the stage's size in pixels of the screen, as the browser rounds them where it tells. */
function resized([entry]) {
  const exact = entry.devicePixelContentBoxSize?.[0], box = entry.contentRect;
  const [width, height] = [[box.width, exact?.inlineSize], [box.height, exact?.blockSize]].map(([css, told]) => {
    const guess = css * devicePixelRatio;
    return Math.max(1, Math.abs(told - guess) <= 1 ? told : Math.round(guess));
  });
  const { x, y, zoom } = state.view, dx = (overlay.width - width) / 2, dy = (overlay.height - height) / 2;
  overlay.width = width;
  overlay.height = height;
  renderer.resize(width, height);
  if (state.fitted) fit();
  else setView(x + Math.round(dx) / zoom, y + Math.round(dy) / zoom, zoom);
}

try {
  new ResizeObserver(resized).observe(stage, { box: "device-pixel-content-box" });
} catch {
  new ResizeObserver(resized).observe(stage);  // a browser that does not know that box
}

// Pointers, wheel, keys

const held = new Map();  // pointer -> where it is, pixels of the screen

/** Where a pointer is, pixels of the screen. */
function place(event) {
  const box = stage.getBoundingClientRect();
  return {
    x: (event.clientX - box.left) * overlay.width / box.width,
    y: (event.clientY - box.top) * overlay.height / box.height,
  };
}

const middle = points => ({
  x: points.reduce((sum, p) => sum + p.x, 0) / points.length,
  y: points.reduce((sum, p) => sum + p.y, 0) / points.length,
});
const spread = points => points.length < 2 ? 1 : Math.hypot(points[0].x - points[1].x, points[0].y - points[1].y) || 1;

stage.addEventListener("pointerdown", event => {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("held");
  held.set(event.pointerId, place(event));
});
stage.addEventListener("pointermove", event => {
  state.cursor = place(event);
  if (!held.has(event.pointerId)) return tellCursor();
  const before = [...held.values()];
  const rest = { x: 0, y: 0 };
  held.set(event.pointerId, state.cursor);
  const after = [...held.values()], from = middle(before), to = middle(after);
  // Whole pixels only; what is left over stays for the next move.
  const dx = Math.round(to.x - from.x), dy = Math.round(to.y - from.y);
  if (after.length === 1) {
    rest.x = to.x - from.x - dx;
    rest.y = to.y - from.y - dy;
    held.set(event.pointerId, { x: state.cursor.x - rest.x, y: state.cursor.y - rest.y });
  }
  move(dx, dy);
  if (after.length > 1) zoomAt(spread(after) / spread(before), to.x, to.y);
});
const release = event => {
  held.delete(event.pointerId);
  if (!held.size) stage.classList.remove("held");
};
stage.addEventListener("pointerup", release);
stage.addEventListener("pointercancel", release);
stage.addEventListener("pointerleave", () => { state.cursor = null; tellCursor(); });
stage.addEventListener("dblclick", fit);
stage.addEventListener("wheel", event => {
  event.preventDefault();
  const lines = [1, 16, 400][event.deltaMode] ?? 1, at = place(event);
  zoomAt(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), at.x, at.y);
}, { passive: false });

const step = event => (event.shiftKey ? 0.5 : 0.1) * Math.min(overlay.width, overlay.height);
const KEYS = {
  ArrowLeft: event => move(step(event), 0),
  ArrowRight: event => move(-step(event), 0),
  ArrowUp: event => move(0, step(event)),
  ArrowDown: event => move(0, -step(event)),
  "+": () => zoomAt(1.25),
  "=": () => zoomAt(1.25),
  "-": () => zoomAt(0.8),
  f: fit,
  0: fit,
  1: oneToOne,
  e: toggleEllipses,
  "[": () => stepLevel(-1),
  "]": () => stepLevel(1),
  "?": () => element("about").showModal(),
};
addEventListener("keydown", event => {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const taken = event.target instanceof HTMLInputElement && event.key.startsWith("Arrow");
  if (!action || taken || event.ctrlKey || event.metaKey || event.altKey || element("about").open) return;
  event.preventDefault();
  action(event);
});

function toggleEllipses() {
  state.ellipses = !state.ellipses;
  request();
}

element("fit").onclick = fit;
element("one").onclick = oneToOne;
element("in").onclick = () => zoomAt(1.5);
element("out").onclick = () => zoomAt(1 / 1.5);
element("ellipses").onclick = toggleEllipses;
element("help").onclick = () => element("about").showModal();

// Levels

const slider = element("levels"), counts = model.levels.map(level => level.count);

/** A model with layers stops at them; else the slider runs through all counts, evenly in their logarithm. */
const countAt = value => model.layered ? counts[value] : Math.max(1, Math.round(model.count ** (value / SLIDER)));
const sliderAt = count => model.layered
  ? counts.findIndex(c => c >= count)
  : Math.round(SLIDER * Math.log(Math.max(1, count)) / Math.log(Math.max(2, model.count)));

slider.max = model.layered ? counts.length - 1 : SLIDER;
slider.value = slider.max;
element("level-ticks").replaceChildren(...counts.map(count => new Option("", sliderAt(count))));
element("levels-row").hidden = counts.length < 2;
slider.addEventListener("input", () => {
  const near = counts.find(count => Math.abs(sliderAt(count) - slider.value) <= 4);
  setCount(model.layered || near === undefined ? countAt(Number(slider.value)) : near);
});

function setCount(count) {
  state.count = Math.min(Math.max(0, Math.round(count)), model.count);
  request();
}

function stepLevel(direction) {
  const next = direction > 0 ? counts.find(c => c > state.count) : counts.findLast(c => c < state.count);
  if (next === undefined) return;
  setCount(next);
  slider.value = sliderAt(next);
}

function tellLevel() {
  const level = model.levels.find(({ count }) => count === state.count), layer = counts.indexOf(state.count) + 1;
  const parts = [`${formatNumber(state.count)} of ${formatNumber(model.count)}`];
  if (model.layered && layer) parts.unshift(`layer ${layer} of ${counts.length}`);
  if (level?.psnr != null) parts.push(`${level.psnr.toFixed(2)} dB`);
  element("shown").textContent = parts.join(", ");
}

// Texts

function tellCursor() {
  const inside = state.cursor && state.cursor.x >= 0 && state.cursor.y >= 0 &&
    state.cursor.x < overlay.width && state.cursor.y < overlay.height;
  const { x, y, zoom } = state.view;
  const px = inside ? Math.floor(state.cursor.x) : 0, py = inside ? Math.floor(state.cursor.y) : 0;
  const at = [x + (px + 0.5) / zoom, y + (py + 0.5) / zoom];
  const known = Boolean(inside) && at[0] >= 0 && at[1] >= 0 && at[0] <= model.width && at[1] <= model.height;
  element("swatch").classList.toggle("known", known);
  if (!known) {
    element("value").textContent = "";
    return;
  }
  const value = valueAt(model, state.view, state.count, px, py);
  const digits = Math.min(5, Math.max(1, Math.ceil(Math.log10(zoom)) + 1));
  const names = ["", "", "", "RGB", "RGBA"][value.length] || "L";
  element("value").textContent =
    `x ${at[0].toFixed(digits)}, y ${at[1].toFixed(digits)}: ` +
    Array.from(value, (v, d) => `${names[d]} ${v.toFixed(3)}`).join(", ");
  const [r, g, b] = [0, 1, 2].map(d => Math.round(255 * value[value.length > 1 ? d : 0]));
  element("swatch").style.background = `rgb(${r} ${g} ${b})`;
}

/** Elements that say a name and its value each; tags: of the whole, of the name and of the value. */
function pairs(rows, tags) {
  return rows.map(([name, value]) => {
    const [whole, head, cell] = tags.map(tag => document.createElement(tag));
    head.textContent = name;
    cell.textContent = value;
    whole.append(head, cell);
    return whole;
  });
}

function tellFacts() {
  const total = model.ledger.reduce((sum, [, bytes]) => sum + bytes, 0), last = model.levels.at(-1);
  const facts = [["pixels", `${model.width} x ${model.height}`], ["Gaussians", formatNumber(model.count)]];
  if (total) {
    facts.push(["bytes", formatNumber(total)]);
    facts.push(["bits per pixel", (8 * total / model.width / model.height).toFixed(3)]);
  }
  if (last.psnr != null) facts.push(["dB PSNR", last.psnr.toFixed(2)]);
  element("facts").replaceChildren(...pairs(facts, ["div", "dt", "dd"]));
}

function tellNumbers() {
  const rows = [
    ["drawn", whyNot ? `${renderer.name} (${whyNot})` : renderer.name],
    ["blend", model.blend === "topk" ? `topk, ${model.topk} a pixel` : model.blend],
    ["order", model.layered ? "as the layers of the file" : "by the error that leaving one out makes"],
    ["numbers in this page", `${model.encoding}, on average ${model.difference.toFixed(3)} levels of 255 from the model`],
    ["this page", `${formatNumber(model.page_bytes)} bytes`],
    ...model.ledger.map(([name, bytes]) => [`bytes: ${name}`, formatNumber(bytes)]),
  ];
  if (model.dilation > 0) rows.splice(2, 0, ["dilation", `${model.dilation} square pixels of the screen`]);
  element("numbers").replaceChildren(...pairs(rows, ["tr", "th", "td"]));
}

tellFacts();
chooseRenderer(forced === "canvas" ? "asked for by ?renderer=canvas" : "");

// For scripts (and the tests): `show` sets what is given of {x, y, zoom, count, ellipses}; `pixels` is what is on the
// screen, 8-bit RGBA row by row.
window.splatViewer = {
  get renderer() { return renderer.name; },
  get size() { return [overlay.width, overlay.height]; },
  get view() { return { ...state.view, count: state.count }; },
  show({ x = state.view.x, y = state.view.y, zoom = state.view.zoom, count = state.count, ellipses = state.ellipses }) {
    state.ellipses = ellipses;
    setCount(count);
    slider.value = sliderAt(state.count);
    setView(x, y, zoom);
    drawNow();
    renderer.finish();
  },
  pixels() {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [overlay.width, overlay.height];
    const context = copy.getContext("2d");
    renderer.draw(state.view, state.count);
    renderer.finish();
    context.drawImage(renderer.canvas, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height).data;
  },
  value: (px, py) => Array.from(valueAt(model, state.view, state.count, px, py)),
};
