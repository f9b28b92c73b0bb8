// What engine and learner saw: each token, whether it carries loss, its logprob and the weights that sampled it.

import { html, useState } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { figure, whole } from "./format.js";
import { Asked } from "./parts.js";

const SURPRISE = -1.6; // nats: below one chance in five

function Token({ sample, at }) {
  const text = sample.texts ? sample.texts[at] : ` ${sample.ids[at]}`;
  if (!sample.mask[at]) return html`<span class="read" title=${`id ${sample.ids[at]}, read`}>${text}</span>`;
  const logprob = sample.logprobs[at];
  const told = `id ${sample.ids[at]}, logprob ${figure(logprob)}, weights ${sample.versions[at]}`;
  return html`<span class=${`loss ${logprob < SURPRISE ? "odd" : ""}`} title=${told}>${text}</span>`;
}

function Sample({ sample, number, of }) {
  const carry = sample.mask.filter(Boolean).length;
  const versions = [...new Set(sample.versions.filter((version) => version >= 0))];
  const mean = sample.logprobs.reduce((sum, value, at) => sum + (sample.mask[at] ? value ?? 0 : 0), 0) / Math.max(carry, 1);
  return html`
    <h3>${of > 1 ? `Sample ${number + 1} of ${of}: ` : ""}${whole(sample.ids.length)} tokens, ${whole(carry)} with loss</h3>
    <p class="soft">Sampled by weights ${versions.join(", ") || "–"}; mean logprob ${figure(mean)} nats.</p>
    <div class="scroll"><p class="tokens">${sample.ids.map((_, at) => html`<${Token} key=${at} sample=${sample} at=${at} />`)}</p></div>
    <details><summary>Sampled tokens as a table</summary><${Sampled} sample=${sample} /></details>`;
}

function Sampled({ sample }) {
  const rows = sample.ids.map((id, at) => at).filter((at) => sample.mask[at]);
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Sampled tokens"><table>
    <thead><tr><th scope="col">place</th><th scope="col">id</th><th scope="col" class="words">text</th>
      <th scope="col">logprob</th><th scope="col">weights</th></tr></thead>
    <tbody>${rows.map((at) => html`<tr key=${at}><td>${at}</td><td>${sample.ids[at]}</td>
      <td class="words mono">${sample.texts ? JSON.stringify(sample.texts[at]) : ""}</td>
      <td>${figure(sample.logprobs[at])}</td><td>${sample.versions[at]}</td></tr>`)}</tbody></table></div>`;
}

function Loaded({ path }) {
  const asked = useGet(path);
  return html`<${Asked} asked=${asked}>${(samples) => samples.length === 0
    ? html`<p>No tokens were recorded: no engine of the run played this episode.</p>`
    : html`<p class="legend"><span><span class="loss">sampled</span> carries loss</span>
        <span><span class="loss odd">sampled</span> was unlikely (logprob below ${SURPRISE})</span>
        <span>grey: read, without loss</span></p>
      ${samples.map((sample, at) => html`<${Sample} key=${at} sample=${sample} number=${at} of=${samples.length} />`)}`}<//>`;
}

export function Tokens({ run, id }) {
  const [open, setOpen] = useState(false);
  return html`<section aria-labelledby="tokens"><h2 id="tokens">Tokens</h2>
    ${open ? html`<${Loaded} path=${`runs/${encodeURIComponent(run)}/episodes/${encodeURIComponent(id)}/tokens`} />`
      : html`<button type="button" onClick=${() => setOpen(true)}>Show the tokens</button>`}</section>`;
}
