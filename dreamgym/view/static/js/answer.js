// One answer of the dream: what it was shown, what it said, what the real environment said, and what a person says of it.

import { html, useState } from "../vendor/preact-htm.js";
import { post } from "./api.js";
import { figure } from "./format.js";
import { Part, Step, remarks } from "./turns.js";

const last = (state) => state.slice(state.lastIndexOf("\n") + 1);

function Shown({ demos }) {
  if (demos.length === 0) return html`<p class="soft">No demonstration was shown to the dream.</p>`;
  return html`<details open><summary>Shown to the dream, by similarity</summary>
    <ol class="shown">${demos.map((demo) => html`<li><span class="soft">${demo.score.toFixed(2)} · ${demo.world} · </span>
      <span class="mono">${last(demo.state)} > ${demo.action} = ${last(demo.next_state)}</span></li>`)}</ol></details>`;
}

export function Answer({ turn, number, parted, real, beside, asked, judged }) {
  const said = html`
    ${turn.error ? html`<${Part} name="action" text=${turn.action} kind="action" /><p class="notice">${turn.error}</p>`
      : html`<${Step} step=${turn} dreamed=${true} />`}
    ${turn.overruled && html`<p class="soft">The first answer solved the task, and further ones outvoted it.</p>`}`;
  return html`<h3>Step ${number + 1}${parted ? ": first difference" : ""} <small>${remarks(turn)}</small></h3>
    ${beside ? html`<div class="sides"><div><p class="soft">Dream</p>${said}</div>
      <div><p class="soft">Real environment${real && remarks(real) ? ` · ${remarks(real)}` : ""}</p>
        ${real ? html`<${Step} step=${real} />` : html`<p class="soft">over</p>`}</div></div>` : said}
    <${Shown} demos=${turn.shown} />
    <${Judge} turn=${turn} number=${number} asked=${asked} judged=${judged} />`;
}

/** Right, wrong, unreadable; for a wrong answer a person may say what is right. */
function Judge({ turn, number, asked, judged }) {
  const [open, setOpen] = useState(false);
  const [note, setNote] = useState("");
  const send = async (verdict, right = null) => {
    try {
      const told = await post("play/judge", { ...asked, judged: verdict, right });
      setNote({ person: "with what you say is right", real: "with what the real environment said" }[told.truth_by] || "");
      setOpen(false);
      judged();
    } catch (error) {
      setNote(error.message);
    }
  };
  const button = (verdict, label, click) => html`<button type="button" aria-pressed=${turn.judged === verdict}
    disabled=${Boolean(turn.error) && verdict !== "unreadable"} onClick=${click}>${label}</button>`;
  return html`<div class="judge" role="group" aria-label=${`Judge step ${number + 1}`}>
      ${button("right", "Right", () => send("right"))}
      ${button("wrong", "Wrong", () => setOpen(!open))}
      ${button("unreadable", "Unreadable", () => send("unreadable"))}
      <span class="soft" role="status">${turn.judged && `judged ${turn.judged}`} ${note}</span></div>
    ${open && html`<${SayRight} turn=${turn} send=${(right) => send("wrong", right)} />`}`;
}

function SayRight({ turn, send }) {
  const [right, setRight] = useState({ next_state: turn.next_state, reward: String(turn.reward ?? 0), done: turn.done, reasoning: "" });
  const set = (name, value) => setRight((old) => ({ ...old, [name]: value }));
  const submit = (event) => { event.preventDefault(); send({ ...right, reward: Number(right.reward) || 0 }); };
  return html`<form class="right" onSubmit=${submit}>
    <label>What is the right next state? <textarea rows="4" value=${right.next_state} onInput=${(event) => set("next_state", event.target.value)}></textarea></label>
    <div class="row"><label>Reward <input type="number" step="any" value=${right.reward} onInput=${(event) => set("reward", event.target.value)} /></label>
      <label class="check"><input type="checkbox" checked=${right.done} onChange=${(event) => set("done", event.target.checked)} /> the end</label></div>
    <label>Why (the reasoning that leads there; may be empty) <input type="text" value=${right.reasoning} onInput=${(event) => set("reasoning", event.target.value)} /></label>
    <div class="row"><button type="submit">Wrong, this is right</button>
      <button type="button" onClick=${() => send(null)}>Wrong, and I do not say what is right</button></div>
    <p class="soft">The dream said reward ${figure(turn.reward ?? 0)}${turn.done ? ", the end" : ""}.</p></form>`;
}
