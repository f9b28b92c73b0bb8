// Runs over one another: curves, headlines, and the settings that differ.

import { html } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { figure } from "./format.js";
import { Asked, Table } from "./parts.js";
import { Plots } from "./plot.js";
import { link } from "./route.js";

export function Compare({ runs, params }) {
  const chosen = params.getAll("run").filter((key) => runs.some((run) => run.key === key));
  const toggle = (key) => {
    const next = chosen.includes(key) ? chosen.filter((one) => one !== key) : [...chosen, key];
    location.replace(`${link("", "compare")}?${new URLSearchParams(next.map((one) => ["run", one]))}`);
  };
  return html`<h1>Compare runs</h1>
    <section aria-label="Runs"><fieldset class="filters"><legend class="soft">Runs to lay over one another</legend>
      ${runs.map((run) => html`<label key=${run.key} class="check"><input type="checkbox" checked=${chosen.includes(run.key)}
        onChange=${() => toggle(run.key)} />${run.key}</label>`)}</fieldset></section>
    ${chosen.length < 2 ? html`<p>Choose two runs or more.</p>` : html`<${Together} chosen=${chosen} />`}`;
}

function Together({ chosen }) {
  const asked = useGet(`compare?${new URLSearchParams(chosen.map((key) => ["run", key]))}`);
  return html`<${Asked} asked=${asked}>${(data) => html`
    <section aria-labelledby="headlines"><h2 id="headlines">What they reached</h2>
      <${Table} header=${["figure", ...data.runs]} rows=${headlines(data)} /></section>
    <section aria-labelledby="settings"><h2 id="settings">Settings that differ</h2>
      ${data.settings.length === 0 ? html`<p>None.</p>` : html`<${Table} header=${["setting", ...data.runs]}
        left=${[0, ...data.runs.map((_, at) => at + 1)]} rows=${data.settings.map((row) => [row.name, ...row.values])} />`}</section>
    <section aria-labelledby="curves"><h2 id="curves">Curves</h2>
      <p class="soft">A colour for each run, a dash for each line of a run.</p><${Plots} panels=${data.panels} /></section>`}<//>`;
}

function headlines(data) {
  const names = Object.keys(data.headlines[data.runs[0]]);
  const rows = names.map((name) => [name.replaceAll("_", " "), ...data.runs.map((key) => figure(data.headlines[key][name]))]);
  return rows.filter((row) => row.slice(1).some((cell) => cell !== "–"));
}
