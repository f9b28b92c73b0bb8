// Transitions as points of a plane: drag to zoom, hover or press an arrow key to read one.

import uPlot from "../vendor/uplot.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { percent, whole } from "./format.js";

const COLOURS = ["--c6", "--c2", "--c1"];
const NEAR = 24; // pixels: a point farther away is not meant

export function BufferMap({ map, names, told }) {
  const [at, setAt] = useState(-1);
  const order = map.x.map((_, place) => place).sort((a, b) => map.x[a] - map.x[b]);
  const step = (by) => setAt((now) => order[(order.indexOf(now) + by + order.length) % order.length]);
  const pressed = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by && order.length) { event.preventDefault(); step(by); }
  };
  const counts = map.origins.map((_, which) => map.origin.filter((one) => one === which).length);
  const shown = map.origins.map((name, which) => [name, which]).filter(([, which]) => counts[which]);
  return html`<p class="soft">${whole(map.x.length)} of ${whole(map.of)} transitions, at most 1,000 of each origin.
      What lies close is alike; the two axes hold ${percent(map.share)} of the variance. Drag to zoom, double-click to see all.</p>
    <p class="legend">${shown.map(([name, which]) => html`<span key=${name}><span class=${`dot o${which}`} aria-hidden="true"></span> ${names[name]}</span>`)}</p>
    <${Points} map=${map} order=${order} at=${at} setAt=${setAt} pressed=${pressed} />
    <div class="near" role="status">${at < 0 ? html`<p class="soft">No point is chosen.</p>` : told(map.items[at])}</div>`;
}

function Points({ map, order, at, setAt, pressed }) {
  const holder = useRef(null);
  const drawn = useRef(null);
  const chosen = useRef(at);
  chosen.current = at;
  useEffect(() => {
    const node = holder.current;
    const draw = () => { drawn.current?.destroy(); drawn.current = new uPlot(options(map, order, node, chosen, setAt), data(map, order), node); };
    const sized = new ResizeObserver(() => (drawn.current ? drawn.current.setSize({ width: node.clientWidth, height: drawn.current.height }) : draw()));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    sized.observe(node);
    dark.addEventListener("change", draw);
    return () => { sized.disconnect(); dark.removeEventListener("change", draw); drawn.current?.destroy(); drawn.current = null; };
  }, [map]);
  useEffect(() => { drawn.current?.redraw(false); }, [at]);
  return html`<div class="chart map" ref=${holder} tabindex="0" role="img" onKeyDown=${pressed}
    aria-label="Map of transitions; the arrow keys go from point to point"></div>`;
}

/** Points from left to right, a row an origin. */
const data = (map, order) => [
  order.map((place) => map.x[place]),
  ...map.origins.map((_, which) => order.map((place) => (map.origin[place] === which ? map.y[place] : null))),
];

/** The point nearest to the pointer, by its place in `map`; -1 where none is near. */
function nearest(plot, map) {
  let found = -1;
  let least = NEAR * NEAR;
  map.x.forEach((x, place) => {
    const across = plot.valToPos(x, "x") - plot.cursor.left;
    const down = plot.valToPos(map.y[place], "y") - plot.cursor.top;
    const far = across * across + down * down;
    if (far < least) { least = far; found = place; }
  });
  return found;
}

function ring(plot, map, at, ink) {
  if (at < 0) return;
  const { ctx } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.arc(plot.valToPos(map.x[at], "x", true), plot.valToPos(map.y[at], "y", true), 7 * devicePixelRatio, 0, 7);
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.strokeStyle = ink;
  ctx.stroke();
  ctx.restore();
}

function options(map, order, node, chosen, setAt) {
  const style = getComputedStyle(node);
  const ink = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: ink("--soft"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", size: 34 };
  const around = (_, from, to) => { const rim = (to - from || 1) * 0.04; return [from - rim, to + rim]; };
  return {
    width: node.clientWidth,
    height: 380,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: true, y: true, uni: 20 }, points: { show: false } },
    scales: { x: { time: false, range: around }, y: { range: around } },
    axes: [axis, { ...axis, size: 44 }],
    series: [{}, ...map.origins.map((_, which) => ({
      stroke: ink(COLOURS[which]), paths: () => null,
      points: { show: true, size: 5, fill: `${ink(COLOURS[which])}b0`, width: 0 },
    }))],
    hooks: {
      setCursor: [(plot) => { const near = plot.cursor.left >= 0 ? nearest(plot, map) : -1; if (near >= 0) setAt(near); }],
      draw: [(plot) => ring(plot, map, chosen.current, ink("--text"))],
    },
  };
}
