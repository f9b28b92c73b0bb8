// The first page of a run.

import { html } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { Asked, Blocks, Cards, State, TimeBars } from "./parts.js";
import { Plots } from "./plot.js";

const FIRST = ["success", "kept", "throughput", "fidelity/state_exact", "fidelity/outcome_accuracy"];

export function Overview({ run, changes }) {
  const asked = useGet(`runs/${encodeURIComponent(run)}/overview`, changes);
  return html`<${Asked} asked=${asked}>${(data) => html`
    <h1>${data.name} <${State} state=${data.state} /></h1>
    <p class="sub">${data.about.join(" · ")}</p>
    <section aria-labelledby="now"><h2 id="now">How it stands</h2>
      <${Cards} cards=${data.cards} />
      ${data.remarks.length > 0 && html`<ul class="remarks">${data.remarks.map((remark) => html`
        <li class=${remark.alarm ? "alarm" : ""}>${remark.alarm && html`<strong>Look: </strong>`}${remark.text}</li>`)}</ul>`}
      ${data.remarks.length === 0 && data.cards.length === 0 && html`<p>Nothing was trained yet.</p>`}
      <${Stages} stages=${data.stages} />
    </section>
    <${Curves} panels=${data.panels} />
    ${data.results.length > 0 && html`<section aria-labelledby="result"><h2 id="result">Final evaluations</h2>
      <${Blocks} blocks=${data.results} /></section>`}
    ${data.fidelity.length > 0 && html`<section aria-labelledby="fidelity"><h2 id="fidelity">Can the dream be trusted?</h2>
      <${Blocks} blocks=${data.fidelity} /></section>`}
    ${data.time.length > 0 && html`<section aria-labelledby="time"><h2 id="time">Where the time goes</h2>
      <${TimeBars} rows=${data.time} /></section>`}
    ${data.costs.length > 0 && html`<section aria-labelledby="cost"><h2 id="cost">Stages and tokens</h2>
      <${Blocks} blocks=${data.costs} /></section>`}
    <section aria-labelledby="config"><h2 id="config">Configuration</h2><p class="soft mono">${data.folder}</p>
      <details><summary>config.yaml</summary><pre class="listing" tabindex="0">${data.config}</pre></details></section>
  `}<//>`;
}

const Stages = ({ stages }) => stages.length > 0 && html`
  <ol class="stages" aria-label="Stages">${stages.map((stage) => html`
    <li class=${stage.state}>${stage.name} <small>${stage.state === "done" ? stage.told : `${stage.state} ${stage.told}`}</small></li>`)}
  </ol>`;

function Curves({ panels }) {
  const first = panels.filter((panel) => FIRST.includes(panel.name));
  const rest = panels.filter((panel) => !FIRST.includes(panel.name));
  if (panels.length === 0) return null;
  return html`<section aria-labelledby="curves"><h2 id="curves">Curves</h2>
    <p class="soft">Drag over a plot to zoom, double-click to see all.</p>
    <${Plots} panels=${first} /></section>
    ${rest.length > 0 && html`<section aria-labelledby="more"><h2 id="more">Learning, curriculum, buffer</h2>
      <${Plots} panels=${rest} /></section>`}`;
}
