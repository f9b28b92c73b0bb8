// Small pieces that several pages use. Text of models and environments only ever becomes a text node.

import { html } from "../vendor/preact-htm.js";
import { seconds } from "./format.js";
import { still } from "./still.js";

export function Asked({ asked, children }) {
  if (asked.error) return html`<section><p class="notice" role="alert">${asked.error}</p></section>`;
  if (!asked.data) return html`<p class="soft" role="status">Reading …</p>`;
  return children(asked.data);
}

export const State = ({ state }) => html`<span class=${`state ${state} ${state === "running" && !still ? "live" : ""}`}>${state}</span>`;

export const Cards = ({ cards }) => cards.length > 0 && html`
  <dl class="cards">${cards.map((card) => html`
    <div key=${card.label}><dt>${card.label}</dt>
      <dd><div class="figure">${card.figure}</div><div class="detail">${card.detail}</div></dd></div>`)}
  </dl>`;

/** A table of text; the columns in `left` are words, the first one names its row. */
export function Table({ header, rows, left = [0], caption }) {
  const side = (at) => (left.includes(at) ? "words" : "");
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption || header.join(", ")}><table>
    ${caption && html`<caption>${caption}</caption>`}
    <thead><tr>${header.map((name, at) => html`<th scope="col" class=${side(at)}>${name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell, at) => at === 0
      ? html`<th scope="row" class="words">${cell}</th>`
      : html`<td class=${side(at)}>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

export const Blocks = ({ blocks }) => blocks.map((block) => {
  if (block.kind === "cards") return html`<${Cards} cards=${block.cards} />`;
  if (block.kind === "table") return html`<${Table} header=${block.header} rows=${block.rows} left=${block.left} />`;
  return html`<p class=${block.alarm ? "notice" : ""}>${block.text}</p>`;
});

/** Bars of seconds, longest as wide as there is room. */
export function TimeBars({ rows }) {
  const most = Math.max(...rows.map((row) => row.seconds), 1e-9);
  const total = rows.reduce((sum, row) => sum + row.seconds, 0) || 1;
  return html`<dl class="bars">${rows.map((row) => html`
    <dt>${row.name}</dt>
    <dd class="track" aria-hidden="true"><span class="fill" style=${{ width: `${(100 * row.seconds) / most}%` }}></span></dd>
    <dd class="told">${seconds(row.seconds)} · ${Math.round((100 * row.seconds) / total)}%</dd>`)}
  </dl>`;
}
