"""The style sheet and the script of report.html. The page says everything without the script, too."""

STYLE = """
:root { color-scheme: light dark;
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #59636e; --rule: #dfe3e8; --accent: #0b62c4;
  --line: #0b62c4; --bar: #cfe2f8; --good: #1a7f4b; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #0f1216; --card: #181c22; --ink: #e7eaee; --soft: #9aa5b1; --rule: #2c333b; --accent: #6cb2ff;
  --line: #6cb2ff; --bar: #23415f; --good: #5fd39a; } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 1.6rem 1.1rem 4rem }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem }
h3 { font-size: 1rem; font-weight: 600; margin: 0 0 .4rem }
p { margin: .3rem 0 .8rem } a { color: var(--accent) }
.soft, figcaption, .legend { color: var(--soft) } .small { font-size: .875rem }
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .6rem 0 0; padding: 0; color: var(--soft) }
.facts div { display: flex; gap: .4rem } .facts dt { margin: 0 } .facts dd { margin: 0; color: var(--ink);
  overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.4rem 0 }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: .8rem 1rem }
.card b { display: block; font-size: 1.6rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums }
.card span { color: var(--soft); font-size: .875rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .9rem }
.chart { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y }
.chart .grid { stroke: var(--rule) } .chart .axis { stroke: var(--soft) }
.chart text { fill: var(--soft); font-size: 12.5px; font-family: inherit; font-variant-numeric: tabular-nums }
.chart .line { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round }
.chart .dot { fill: var(--card); stroke: var(--line); stroke-width: 1.6 }
.chart .mark { fill: var(--line) } .chart .told { fill: var(--ink); font-weight: 600; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px }
.switch { position: relative; display: flex; flex-wrap: wrap; align-items: center; gap: 0 .3rem;
  margin-bottom: .8rem }
.switch input { position: absolute; opacity: 0 }
.switch label { padding: .3rem .9rem; border: 1px solid var(--rule); border-radius: 99px; cursor: pointer;
  background: var(--card) }
.switch input:checked + label { background: var(--accent); border-color: var(--accent); color: var(--card);
  font-weight: 600 }
.switch input:focus-visible + label { outline: 3px solid var(--accent); outline-offset: 2px }
.curves:has(#over-images:checked) .time, .curves:has(#over-time:checked) .images { display: none }
.views { display: grid; gap: 1.4rem }
.view { margin: 0 } .view h3 { display: flex; flex-wrap: wrap; gap: 0 .9rem; overflow-wrap: anywhere }
.view h3 span { font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem }
.three figure { margin: 0 } .three figcaption { font-size: .8rem; margin-top: .15rem }
.three img, .compare img, video, .film { display: block; width: 100%; height: auto; border-radius: 6px;
  background: #000 }
video, .film { max-width: 960px; margin: 0 auto }
.compare { position: relative; max-width: 960px; margin: 0 auto; --at: 50% }
.compare .over { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)) }
.compare::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 4px #000a; pointer-events: none }
.compare span { position: absolute; top: .6rem; padding: .1rem .6rem; border-radius: 99px; background: #000a;
  color: #fff; font-size: .8rem; pointer-events: none }
.compare .left { left: .6rem } .compare .right { right: .6rem }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize }
.compare:focus-within { outline: 3px solid var(--accent); outline-offset: 3px; border-radius: 6px }
.legend { display: flex; align-items: center; gap: .5rem; font-size: .875rem; margin-bottom: .9rem; flex-wrap: wrap }
.legend i { width: 10rem; height: .7rem; border-radius: 3px; display: inline-block }
.scroll { overflow: auto; max-height: 30rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .925rem }
th, td { padding: .35rem .9rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem }
thead th { position: sticky; top: 0; background: var(--card); font-weight: 600; color: var(--soft); z-index: 1 }
tbody tr:last-child td { border-bottom: 0 }
tbody th { font-weight: 400 }
td.barred { background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)) }
tfoot td, tfoot th { font-weight: 600; position: sticky; bottom: 0; background: var(--card);
  border-top: 1px solid var(--rule) }
.stack { display: flex; height: 1.9rem; border-radius: 8px; overflow: hidden; margin: .4rem 0 .6rem }
.stack div { min-width: 1px }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 0; padding: 0;
  font-size: .925rem }
.keys i { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .4rem }
details { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: .6rem 1rem;
  margin-top: .9rem }
details .scroll { border: 0; margin-top: .5rem } summary { cursor: pointer; font-weight: 600 }
pre { overflow: auto; font-size: .85rem; line-height: 1.45 }
footer { margin-top: 3rem; color: var(--soft); font-size: .875rem }
@media (max-width: 640px) { .three { grid-template-columns: 1fr } main { padding-inline: .8rem } }
@media print { .scroll { max-height: none } .curves .time { display: block !important } }
"""

SCRIPT = """
for (const compare of document.querySelectorAll(".compare")) {
  const slider = compare.querySelector("input");
  slider.addEventListener("input", () => compare.style.setProperty("--at", slider.value + "%"));
}
const make = (kind, name) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  node.setAttribute("class", name);
  return node;
};
for (const chart of document.querySelectorAll(".chart")) {
  const points = JSON.parse(chart.dataset.points), [, , width] = chart.getAttribute("viewBox").split(" ").map(Number);
  const mark = make("circle", "mark"), told = make("text", "told");
  mark.setAttribute("r", 4);
  chart.addEventListener("pointermove", event => {
    const box = chart.getBoundingClientRect(), x = (event.clientX - box.left) * width / box.width;
    const [px, py, text] = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    mark.setAttribute("cx", px); mark.setAttribute("cy", py);
    told.textContent = text;
    told.setAttribute("x", px); told.setAttribute("y", py < 40 ? py + 24 : py - 12);
    told.setAttribute("text-anchor", px < width * .3 ? "start" : px > width * .7 ? "end" : "middle");
    chart.append(mark, told);
  });
  chart.addEventListener("pointerleave", () => { mark.remove(); told.remove(); });
}
"""
