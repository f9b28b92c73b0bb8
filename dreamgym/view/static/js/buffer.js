// The replay buffer: what is in it, a search that answers as the dream's does, and a map.

import { html, useState } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { figure, whole } from "./format.js";
import { BufferMap } from "./map.js";
import { Asked, Cards, Table } from "./parts.js";
import { link } from "./route.js";

export function Buffer({ run, params, changes }) {
  const path = `runs/${encodeURIComponent(run)}/buffer`;
  const asked = useGet(path, changes);
  return html`<h1>Replay buffer</h1><${Asked} asked=${asked}>${(data) => !data.at
    ? html`<p>No buffer was saved: the first checkpoint writes one, and <span class="mono">replay.top_k=0</span> dreams without.</p>`
    : html`<p class="sub">As the checkpoint <span class="mono">${data.at}</span> has it</p>
      <section aria-labelledby="holds"><h2 id="holds">What it holds</h2><${Cards} cards=${cards(data)} />
        <p class="soft">${refused(data.counters)}</p></section>
      <section aria-labelledby="search"><h2 id="search">What a dream would be shown</h2>
        <${Search} key=${params} run=${run} path=${path} at=${data.at} params=${params} /></section>
      <section aria-labelledby="map"><h2 id="map">Map</h2>
        <${MapOf} key=${data.at} run=${run} path=${path} at=${data.at} /></section>
      <section aria-labelledby="rewards"><h2 id="rewards">Rewards</h2>
        <${Crossed} name="reward" data=${data} part=${data.rewards} told=${(row) => figure(Number(row.value))} /></section>
      <section aria-labelledby="tasks"><h2 id="tasks">Tasks</h2>
        <${Crossed} name="task" data=${data} part=${data.tasks}
          told=${(row) => html`<a href=${link(run, "episodes", "", { task: row.value })}>${row.instruction || row.value}</a>`} /></section>`}<//>`;
}

function cards(data) {
  const ended = data.ended.reduce((sum, count) => sum + count, 0);
  return [
    { label: "Transitions", figure: whole(data.total), detail: `${whole(ended)} end an episode` },
    ...data.origins.map((name, at) => ({ label: NAMES[name], figure: whole(data.by_origin[at]), detail: `${whole(data.ended[at])} ends` })),
    { label: "Shown to the dream", figure: whole(data.retrieved), detail: `${whole(data.never)} never were` },
  ];
}

const NAMES = { seed: "Seed data", real: "Real, later", dreamed: "Dreamed" };

function refused(counters) {
  const why = Object.entries(counters.refused || {}).map(([reason, count]) => `${reason.replaceAll("_", " ")} ${whole(count)}`);
  const words = [`${whole(counters.watermark)} were written so far, ${whole(counters.pruned)} left again`];
  return `${words.concat(why.length ? [`the gate refused: ${why.join(", ")}`] : []).join("; ")}.`;
}

function Crossed({ name, data, part, told }) {
  const rest = part.values - part.rows.length;
  return html`<${Table} caption=${rest > 0 ? `The ${part.rows.length} commonest of ${whole(part.values)}` : ""}
    header=${[name, ...data.origins.map((origin) => NAMES[origin])]}
    rows=${part.rows.map((row) => [told(row), ...row.counts.map(whole)])} />`;
}

function Search({ run, path, at, params }) {
  const given = { state: params.get("state") || "", action: params.get("action") || "" };
  const [typed, setTyped] = useState(given);
  const ask = (event) => { event.preventDefault(); location.replace(link(run, "buffer", "", typed)); };
  const field = (name) => (event) => setTyped({ ...typed, [name]: event.target.value });
  return html`<form role="search" onSubmit=${ask}><fieldset class="filters"><legend class="soft">A state and the action taken there</legend>
      <label class="find">State <textarea rows="3" value=${typed.state} onInput=${field("state")}></textarea></label>
      <label class="find">Action <input type="search" value=${typed.action} onInput=${field("action")} /></label>
      <button type="submit">Search</button></fieldset></form>
    ${(given.state || given.action) && html`<${Found} run=${run} path=${`${path}/search?${new URLSearchParams({ ...given, at })}`} />`}`;
}

const Found = ({ run, path }) => html`<${Asked} asked=${useGet(path)}>${(found) => html`<ol class="turns found">
  ${found.map((item) => html`<li key=${`${item.trajectory_id} ${item.step}`} class="turn-of">
    <h3>Similarity ${figure(item.score)} <small>${item.shown ? "the dream would be shown it" : "not shown"} · ${NAMES[item.origin]}</small></h3>
    <${Item} run=${run} item=${item} /></li>`)}</ol>`}<//>`;

export const Item = ({ run, item }) => html`
  ${[["state", item.state], ["action", item.action], ["next state", item.next_state], ["reasoning", item.reasoning]]
    .filter(([, text]) => text).map(([name, text]) => html`<dl key=${name} class=${`part ${name === "action" ? "action" : ""}`}>
      <dt>${name}</dt><dd><p class="said">${text}</p></dd></dl>`)}
  <p class="soft">reward ${figure(item.reward)}${item.done ? ", the end" : ""} · shown ${whole(item.retrieved)} times ·${" "}
    <a href=${link(run, "episodes", item.trajectory_id)}>step ${item.step + 1} of its episode</a></p>`;

const MapOf = ({ run, path, at }) => html`<${Asked} asked=${useGet(`${path}/map?${new URLSearchParams({ at })}`)}>${(map) => html`
  <${BufferMap} map=${map} names=${NAMES} told=${(item) => html`<${Item} run=${run} item=${item} />`} />`}<//>`;
