// One panel of curves: drag to zoom, double-click to see all again; the same figures as a table for keyboard and ear.

import uPlot from "../vendor/uplot.js";
import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { figure, percent } from "./format.js";
import { Table } from "./parts.js";

const COLOURS = 7;
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]];

const shown = (shape) => (shape === "percent" ? (value) => percent(value, 1) : figure);

/** All lines over the iterations of any: [x, y, y, …], null where a line has no value. */
export function aligned(lines) {
  const xs = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, at) => [x, at]));
  const spread = (line, values) => {
    const row = new Array(xs.length).fill(null);
    line.x.forEach((x, at) => { row[place.get(x)] = values[at]; });
    return row;
  };
  return { xs, spread };
}

function columns(panel, xs, spread) {
  const data = [xs];
  const series = [];
  const bands = [];
  panel.lines.forEach((line, at) => {
    const look = { colour: line.run ?? at, dash: line.run === undefined ? 0 : line.line };
    const positive = (values) => (panel.shape === "log" ? values.map((v) => (v > 0 ? v : null)) : values);
    data.push(spread(line, positive(line.y)));
    series.push({ label: line.label, look, line });
    if (line.low) {
      data.push(spread(line, line.low), spread(line, line.high));
      series.push({ end: true, look, line }, { end: true, look, line });
      bands.push({ at: data.length - 2, look });
    }
  });
  return { data, series, bands };
}

function options(panel, made, node, width) {
  const style = getComputedStyle(node);
  const ink = (look) => style.getPropertyValue(`--c${look.colour % COLOURS}`).trim();
  const soft = style.getPropertyValue("--soft").trim();
  const grid = { stroke: style.getPropertyValue("--line").trim(), width: 1 };
  const font = "11px system-ui, sans-serif";
  const value = shown(panel.shape);
  return {
    width,
    height: panel.name === "success" ? 260 : 180,
    padding: [8, 8, 0, 0],
    cursor: { drag: { x: true, y: false }, points: { size: 6 } },
    legend: { live: true },
    scales: {
      x: { time: false, range: (_, from, to) => (from === to ? [from - 1, to + 1] : [from, to]) },
      y: panel.shape === "percent" ? { range: [0, 1] } : panel.shape === "log" ? { distr: 3 } : {},
    },
    axes: [
      { stroke: soft, grid, ticks: grid, font, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      { stroke: soft, grid, ticks: grid, font, size: 52,
        values: (_, marks) => marks.map((mark) => (panel.shape === "percent" ? percent(mark) : mark == null ? "" : figure(mark))) },
    ],
    series: [
      { label: "iteration" },
      ...made.series.map((one) => ({
        label: one.end ? undefined : one.label,
        stroke: ink(one.look),
        width: one.end ? 0 : 2,
        dash: DASHES[one.look.dash % DASHES.length],
        spanGaps: true,
        points: { show: !one.end && one.line.x.length < 60, size: 5 },
        value: (_, number) => (one.end ? "" : value(number)),
      })),
    ],
    bands: made.bands.map((band) => ({ series: [band.at + 1, band.at], fill: `${ink(band.look)}28` })),
  };
}

function Chart({ panel }) {
  const holder = useRef(null);
  useEffect(() => {
    const node = holder.current;
    const { xs, spread } = aligned(panel.lines);
    const made = columns(panel, xs, spread);
    let plot = null;
    const draw = () => {
      plot?.destroy();
      plot = new uPlot(options(panel, made, node, node.clientWidth), made.data, node);
      plot.root.querySelectorAll(".u-legend .u-series").forEach((row, at) => {
        row.hidden = at > 0 && Boolean(made.series[at - 1]?.end);
      });
    };
    const sized = new ResizeObserver(() => (plot ? plot.setSize({ width: node.clientWidth, height: plot.height }) : draw()));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    sized.observe(node);
    dark.addEventListener("change", draw);
    return () => { sized.disconnect(); dark.removeEventListener("change", draw); plot?.destroy(); };
  }, [panel]);
  return html`<div class="chart" ref=${holder} aria-hidden="true"></div>`;
}

function Figures({ panel }) {
  const { xs, spread } = aligned(panel.lines);
  const value = shown(panel.shape);
  const rows = panel.lines.map((line) => spread(line, line.y));
  return html`<${Table} header=${["iteration", ...panel.lines.map((line) => line.label)]} caption=${panel.title}
    rows=${xs.map((x, at) => [x, ...rows.map((row) => value(row[at]))])} />`;
}

/** A panel; `key` it by its figures, so that it is drawn anew when they change. */
export const Plot = ({ panel }) => html`
  <figure class=${panel.name === "success" ? "wide" : ""}>
    <figcaption>${panel.title} <small>${panel.unit}</small></figcaption>
    <${Chart} panel=${panel} />
    <details class="figures"><summary>Figures<span class="hidden-text"> of ${panel.title}</span></summary>
      <${Figures} panel=${panel} /></details>
  </figure>`;

export const Plots = ({ panels }) => html`<div class="plots">${panels.map((panel) => html`<${Plot} key=${panel.name} panel=${panel} />`)}</div>`;
