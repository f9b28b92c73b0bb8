// All runs that are shown.

import { html } from "../vendor/preact-htm.js";
import { percent, whole } from "./format.js";
import { State } from "./parts.js";
import { link } from "./route.js";

export const Runs = ({ runs }) => html`<h1>Runs</h1>
  <section aria-label="Runs"><div class="scroll" tabindex="0" role="region" aria-label="Table of runs"><table class="list">
    <thead><tr><th scope="col" class="words">Run</th><th scope="col" class="words">State</th>
      <th scope="col" class="words">Environment</th><th scope="col">Iteration</th>
      <th scope="col">Dream success</th><th scope="col">Real success, dev</th></tr></thead>
    <tbody>${runs.map((run) => html`<tr key=${run.key}>
      <th scope="row"><a href=${link(run.key, "overview")}>${run.key}</a></th>
      <td class="words"><${State} state=${run.state} /></td><td class="words">${run.environment}</td>
      <td>${whole(run.iteration)}</td><td>${percent(run.dream, 1)}</td><td>${percent(run.real, 1)}</td></tr>`)}</tbody>
  </table></div>${runs.length > 1 && html`<p><a href="#/compare">Compare runs</a></p>`}</section>`;
