// The tasks that were invented: each below what it was made from, with its value and its fate.

import { html } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { figure } from "./format.js";
import { Asked } from "./parts.js";
import { link } from "./route.js";

export function Tasks({ run, params, changes }) {
  const asked = useGet(`runs/${encodeURIComponent(run)}/tasks`, changes);
  const wanted = params.get("fate") || "";
  return html`<h1>Invented tasks</h1><${Asked} asked=${asked}>${(data) => data.tasks.length === 0
    ? html`<p>No task was invented, or the run has not written them yet: train/tasks.json comes at the end of training.</p>`
    : html`<p class="sub">${data.tasks.length} invented: ${Object.entries(data.fates).map(([fate, n]) => `${n} ${fate}`).join(", ")}</p>
      <section aria-label="Invented tasks">
        <p><label>Fate ${" "}<select value=${wanted} onChange=${(event) => location.replace(link(run, "tasks", "", { fate: event.target.value }))}>
          <option value="">any</option>${Object.keys(data.fates).map((fate) => html`<option value=${fate}>${fate}</option>`)}
        </select></label></p>
        <${Tree} run=${run} data=${data} wanted=${wanted} /></section>`}<//>`;
}

/** Real tasks with what was made from them, and that with what was made from it. */
function Tree({ run, data, wanted }) {
  const known = new Set(data.tasks.map((task) => task.id));
  const children = new Map();
  for (const task of data.tasks) {
    const parent = task.parents[0] ?? "";
    children.set(parent, [...(children.get(parent) || []), task]);
  }
  const kept = (task) => !wanted || task.fate === wanted || (children.get(task.id) || []).some(kept);
  const branch = (tasks) => html`<ul>${tasks.filter(kept).map((task) => html`<li key=${task.id}>
    <${Task} run=${run} task=${task} />${children.has(task.id) && branch(children.get(task.id))}</li>`)}</ul>`;
  const roots = [...children].filter(([parent, tasks]) => !known.has(parent) && tasks.some(kept));
  return html`<ul class="tree">${roots.map(([parent, tasks]) => html`<li key=${parent}>
    <div class="task"><span class="fate">real</span>
      <a href=${link(run, "episodes", "", { task: parent })}>${data.real[parent] || parent || "unknown"}</a></div>
    ${branch(tasks)}</li>`)}</ul>`;
}

const Task = ({ run, task }) => html`<div class="task">
  <span class=${`fate ${task.fate}`}>${task.fate}</span>
  ${task.value !== null
    ? html`<a href=${link(run, "episodes", "", { task: task.id })}>${task.instruction}</a>`
    : task.instruction || html`<span class="mono">${task.id}</span>`}
  <span class="soft"> · generation ${task.generation}${task.value === null ? "" : `, value ${figure(task.value)}`}${task.detail ? `: ${task.detail}` : ""}</span>
  ${task.first_state && html`<details><summary>First state</summary><p class="said">${task.first_state}</p></details>`}</div>`;
