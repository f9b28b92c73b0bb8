// What is asked of the table of episodes; every change is a new address.

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";

const TYPED_MS = 250;
const CHOICES = [
  ["world", "world", "World"],
  ["stage", "stage", "Stage"],
  ["source", "source", "Player"],
  ["status", "status", "Status"],
  ["fold", "fold", "Fold"],
  ["origin", "task_origin", "Task"],
];
const MARKS = [
  ["won", "Won"],
  ["cut", "Cut"],
  ["learned", "Learned from"],
  ["retried", "Played again"],
  ["malformed", "No action"],
];

function Choice({ name, label, values, params, set }) {
  return html`<label>${label}
    <select value=${params.get(name) || ""} onChange=${(event) => set({ [name]: event.target.value })}>
      <option value="">any</option>
      ${values.map(([value, told]) => html`<option value=${value}>${told}</option>`)}
    </select></label>`;
}

/** A field whose value is asked for once typing pauses. */
function Typed({ name, label, params, set, ...rest }) {
  const asked = params.get(name) || "";
  const [text, setText] = useState(asked);
  const timer = useRef(0);
  useEffect(() => { clearTimeout(timer.current); setText(asked); }, [asked]);
  const typed = (event) => {
    const value = event.target.value;
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set({ [name]: value }), TYPED_MS);
  };
  return html`<input aria-label=${label} value=${text} onInput=${typed} ...${rest} />`;
}

const Range = ({ name, label, params, set }) => html`
  <span class="pair">${label}<span class="ends">
    <${Typed} type="number" min="0" name=${`${name}_from`} label=${`${label}, from`} params=${params} set=${set} />–
    <${Typed} type="number" min="0" name=${`${name}_to`} label=${`${label}, to`} params=${params} set=${set} />
  </span></span>`;

/** Filters that are set by following a link, each with a way to drop it. */
const Only = ({ params, set }) => ["task", "group"].filter((name) => params.get(name)).map((name) => html`
  <p key=${name} class="only">Only ${name} <span class="mono">${params.get(name)}</span>
    <button type="button" onClick=${() => set({ [name]: "" })}>Show all</button></p>`);

export function Filters({ params, set, facets }) {
  return html`<form role="search" onSubmit=${(event) => event.preventDefault()}>
  <${Only} params=${params} set=${set} /><fieldset class="filters">
    <legend class="hidden-text">Filters</legend>
    <label class="find">Search
      <${Typed} type="search" name="text" label="Search" placeholder="instruction, task, id, error" params=${params} set=${set} />
    </label>
    <label class="check"><input type="checkbox" checked=${params.get("deep") === "yes"}
      onChange=${(event) => set({ deep: event.target.checked ? "yes" : "" })} />in all that was said</label>
    ${CHOICES.filter(([, column]) => Object.keys(facets[column] || {}).length > 1).map(([name, column, label]) => html`
      <${Choice} key=${name} name=${name} label=${label} params=${params} set=${set}
        values=${Object.entries(facets[column]).map(([value, count]) => [value, `${value} (${count})`])} />`)}
    ${MARKS.map(([name, label]) => html`
      <${Choice} key=${name} name=${name} label=${label} params=${params} set=${set} values=${[["yes", "yes"], ["no", "no"]]} />`)}
    <${Range} name="iteration" label="Iteration" params=${params} set=${set} />
    <${Range} name="steps" label="Steps" params=${params} set=${set} />
  </fieldset></form>`;
}
