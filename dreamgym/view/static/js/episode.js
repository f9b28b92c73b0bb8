// One episode: its facts, its group, its turns, the other world beside it, its tokens.

import { html, useState } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { figure, outcome, whole } from "./format.js";
import { Asked } from "./parts.js";
import { link } from "./route.js";
import { still } from "./still.js";
import { Tokens } from "./tokens.js";
import { Beside, Turns } from "./turns.js";

export function Episode({ run, id, changes }) {
  const asked = useGet(`runs/${encodeURIComponent(run)}/episodes/${encodeURIComponent(id)}`, changes);
  return html`<p><a href=${link(run, "episodes")}>All episodes</a></p>
    <${Asked} asked=${asked}>${(episode) => html`<${Told} key=${id} run=${run} episode=${episode} />`}<//>`;
}

function Told({ run, episode }) {
  const [together, setTogether] = useState(false);
  const beside = episode.beside;
  const [dream, real] = episode.world === "dream" ? [episode, beside?.episode] : [beside?.episode, episode];
  return html`
    <h1>${episode.instruction || episode.task_id}</h1>
    <p class="sub">${episode.world === "dream" ? "Dreamed" : "Played for real"} by ${episode.source} · ${outcome(episode)}</p>
    <section aria-labelledby="facts"><h2 id="facts">What it is</h2><${Facts} run=${run} episode=${episode} />
      ${episode.error && html`<p class="notice">${episode.error}</p>`}
      <${Group} run=${run} episode=${episode} /></section>
    <section aria-labelledby="turns"><h2 id="turns">${together ? "Dream and real environment" : "Turn by turn"}</h2>
      ${beside && html`<p><button type="button" aria-pressed=${together} onClick=${() => setTogether(!together)}>
          ${together ? "This episode alone" : `Beside the ${beside.episode.world === "dream" ? "dream" : "real episode"} that took its actions for longest`}
        </button> <a href=${link(run, "episodes", beside.episode.trajectory_id)}>Open the other one</a></p>`}
      ${together && beside
        ? html`<${Beside} dream=${dream} real=${real} difference=${beside.difference} shared=${beside.shared} />`
        : html`<${Turns} run=${run} episode=${episode} />`}
    </section>
    ${!still && html`<${Tokens} run=${run} id=${episode.trajectory_id} />`}`;
}

function Facts({ run, episode }) {
  const reward = episode.steps.reduce((sum, step) => sum + (step.reward ?? 0), 0);
  const facts = [
    ["episode", episode.trajectory_id],
    ["task", html`<a href=${link(run, "episodes", "", { task: episode.task_id })}>${episode.task_id}</a>`],
    ["origin of the task", episode.task_origin === "generated" ? `invented, from ${episode.parent_ids.join(", ")}` : "real"],
    ["stage", episode.stage],
    ["iteration", episode.iteration < 0 ? null : whole(episode.iteration)],
    ["fold", episode.fold],
    ["steps", whole(episode.steps.length)],
    ["reward", figure(reward)],
    ["cut", episode.truncated ? "yes" : null],
    ["learned from", episode.sampled ? (episode.learned ? "yes" : "no") : null],
    ["played again", episode.retried ? "yes" : null],
    ...Object.entries(episode.info).filter(([, value]) => value).map(([key, value]) => [key.replaceAll("_", " "), figure(value)]),
  ];
  return html`<dl class="facts">${facts.filter(([, value]) => value !== null).map(([name, value]) => html`
    <div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Group({ run, episode }) {
  if (episode.siblings.length < 2) return null;
  const won = episode.siblings.filter((one) => one.success).length;
  return html`<h3>Its group: ${won} of ${episode.siblings.length} won</h3>
    <ul class="groups">${episode.siblings.map((one) => html`<li key=${one.trajectory_id}>
      <a href=${link(run, "episodes", one.trajectory_id)} aria-current=${one.trajectory_id === episode.trajectory_id ? "page" : undefined}>
        ${outcome(one)}, ${one.steps} steps</a></li>`)}</ul>`;
}
