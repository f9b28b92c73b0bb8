// An episode turn by turn: state, thought, action, what the world answered, the dream's reasoning, reward.

import { html } from "../vendor/preact-htm.js";
import { figure } from "./format.js";
import { link } from "./route.js";
import { still } from "./still.js";

export const Part = ({ name, text, kind = "" }) => Boolean(text) && html`
  <dl class=${`part ${kind}`}><dt>${name}</dt><dd><p class="said">${text}</p></dd></dl>`;

/** What stands behind the number of a step. */
export function remarks(step) {
  const words = [];
  if (step.reward) words.push(`reward ${figure(step.reward)}`);
  if (step.malformed) words.push(`no action: ${step.malformed.replaceAll("_", " ")}`);
  if (!step.valid && !step.malformed) words.push("not possible there");
  if (step.same_turn) words.push("same turn");
  if (step.done) words.push("the end");
  return words.join(" · ");
}

/** One step; `dreamed` tells whose reasoning it is. */
export const Step = ({ step, dreamed }) => html`
  <${Part} name="thought" text=${step.thought} kind="quiet" />
  <${Part} name=${step.malformed ? "answer" : "action"} text=${step.malformed ? step.answer : step.action} kind="action" />
  ${!step.malformed && step.answer && html`<${Part} name="as written" text=${step.answer} kind="quiet" />`}
  ${step.expert_action && step.expert_action !== step.action && html`
    <${Part} name="expert" text=${step.expert_action} kind="quiet" />`}
  <${Part} name=${dreamed ? "dream's reasoning" : "reasoning"} text=${step.reasoning} kind="quiet" />
  <${Part} name="next state" text=${step.next_state} />`;

const heading = (number, step) => html`<h3>Step ${number + 1} <small>${remarks(step)}</small></h3>`;

export const Turns = ({ run, episode, parted }) => html`
  <${Part} name="first state" text=${episode.steps[0]?.state || episode.first_state} />
  <ol class="turns">${episode.steps.map((step, number) => html`
    <li key=${number} class=${`turn-of ${number === parted ? "parted" : ""}`}>
      ${heading(number, step)}<${Step} step=${step} dreamed=${episode.world === "dream"} />
      ${!still && episode.world === "dream" && step.action && html`<p class="soft">
        <a href=${link(run, "buffer", "", { state: step.state, action: step.action })}>What the buffer has like this</a></p>`}
    </li>`)}</ol>`;

const WHAT = {
  begin: "The first states differ.",
  state: "The same action leads to another state.",
  outcome: "The same action has another reward or end.",
  action: "From here on the actions differ.",
  end: "One of them ends here.",
};

/** Two episodes of one task step by step, the first difference marked. */
export function Beside({ dream, real, difference, shared }) {
  const length = Math.max(dream.steps.length, real.steps.length);
  const sides = [[dream, "Dream"], [real, "Real environment"]];
  return html`
    <p>${shared === 0 ? "No first action is" : `The first ${shared} ${shared === 1 ? "action is" : "actions are"}`} the same in both.${" "}
      ${difference ? `They part at step ${difference.step + 1}: ${WHAT[difference.what]}` : "They never part."}</p>
    <div class="sides">${sides.map(([one, name]) => html`<div key=${name}>
      <h3>${name}</h3><${Part} name="first state" text=${one.steps[0]?.state} /></div>`)}</div>
    ${Array.from({ length }, (_, at) => html`
      <div key=${at} class=${`row-of ${difference?.step === at ? "parted" : ""}`}>
        <h3>Step ${at + 1}${difference?.step === at ? ": first difference" : ""}</h3>
        <div class="sides">${sides.map(([one, name]) => html`<div key=${name}>${one.steps[at]
          ? html`<p class="soft">${name}${remarks(one.steps[at]) && ` · ${remarks(one.steps[at])}`}</p>
              <${Step} step=${one.steps[at]} dreamed=${one.world === "dream"} />`
          : html`<p class="soft">${name}: over</p>`}</div>`)}</div>
      </div>`)}`;
}
