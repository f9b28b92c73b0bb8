// The dream played by hand. The address names task, dream and actions, so "back" in the browser is a step back.

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { get, post } from "./api.js";
import { whole } from "./format.js";
import { Answer } from "./answer.js";
import { Asked } from "./parts.js";
import { Part } from "./turns.js";

const OVER = {
  won: "The dream says: the task is solved.",
  lost: "The dream says: it is over, and the task is not solved.",
  cut: "That was the last step that an episode may have.",
  full: "The dream's context window is full: the last action has no answer.",
  unreadable: "The dream gave no answer that can be read. Step back, or judge it unreadable.",
  failed: "The engine gave no answer. Step back, and ask again.",
};
const PARTED = {
  begin: "The first states differ.",
  state: "They part at step N: the same action leads to another state.",
  outcome: "They part at step N: the same action has another reward or end.",
  end: "They part at step N: one of them ends there.",
};

/** The address of an episode. */
function place(run, task, { draw = 0, beside = false, actions = [] } = {}) {
  const asked = new URLSearchParams(actions.map((action) => ["do", action]));
  if (draw) asked.set("draw", draw);
  if (beside) asked.set("beside", "yes");
  const path = ["run", run, "play", task].filter(Boolean).map(encodeURIComponent).join("/");
  return `#/${path}${asked.size ? `?${asked}` : ""}`;
}

export function Play({ run, id, params }) {
  if (!id) return html`<${Choose} run=${run} />`;
  const asked = {
    task: id,
    draw: Number(params.get("draw")) || 0,
    actions: params.getAll("do"),
    beside: params.get("beside") === "yes",
  };
  return html`<${Episode} key=${id} run=${run} asked=${asked} />`;
}

function Choose({ run }) {
  const [text, setText] = useState("");
  const [asked, setAsked] = useState({ data: null, error: "" });
  useEffect(() => {
    const stop = new AbortController();
    get(`play/tasks?text=${encodeURIComponent(text)}`, stop.signal).then(
      (data) => setAsked({ data, error: "" }),
      (error) => error.name !== "AbortError" && setAsked({ data: null, error: error.message }),
    );
    return () => stop.abort();
  }, [text]);
  return html`<h1>Play the dream</h1>
    <p class="sub">Act as the agent: type actions, read what the dream answers, and judge it.</p>
    <section aria-label="Tasks"><label>Find a task ${" "}
      <input type="search" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
      <${Asked} asked=${asked}>${(data) => html`
        <p class="soft" role="status">${whole(data.matching)} of ${whole(data.total)} tasks${data.matching > data.tasks.length ? `; the first ${data.tasks.length}:` : ""}</p>
        <ul class="choose">${data.tasks.map((task) => html`<li key=${task.id}>
          <a href=${place(run, task.id)}>${task.instruction}</a>
          <span class="soft"> · ${task.origin === "generated" ? "invented" : task.fold} · <span class="mono">${task.id}</span></span></li>`)}</ul>`}<//></section>`;
}

/** What the server says of an episode: `{ data, error, busy }`; the old answer stays while a new one is made. */
function usePlayed(asked) {
  const [state, setState] = useState({ data: null, error: "", busy: true });
  const [again, setAgain] = useState(0);
  const body = JSON.stringify(asked);
  useEffect(() => {
    const stop = new AbortController();
    setState((old) => ({ ...old, busy: true }));
    post("play", asked, stop.signal).then(
      (data) => setState({ data, error: "", busy: false }),
      (error) => error.name !== "AbortError" && setState((old) => ({ ...old, error: error.message, busy: false })),
    );
    return () => stop.abort();
  }, [body, again]);
  return [state, () => setAgain((count) => count + 1)];
}

function Episode({ run, asked }) {
  const [{ data, error, busy }, refresh] = usePlayed(asked);
  const go = (changed) => { location.hash = place(run, asked.task, { ...asked, ...changed }); };
  const back = () => go({ actions: asked.actions.slice(0, -1) });
  if (!data) {
    return error ? html`<section><p class="notice" role="alert">${error}</p><p><a href=${place(run, "")}>Choose a task</a></p></section>`
      : html`<p class="soft" role="status">Reading …</p>`;
  }
  const parted = data.difference?.step;
  return html`<h1>Play the dream</h1>
    <p class="sub">${data.task.origin === "generated" ? "An invented task" : `A task of the ${data.fold} fold`}
      ${" · "}<span class="mono">${data.task.id}</span> · dream ${data.draw + 1} · <a href=${place(run, "")}>choose another task</a></p>
    <section aria-label="Task"><h2>${data.task.instruction}</h2>
      <${Part} name="first state" text=${data.task.first_state} />
      ${data.beside?.first_state && data.beside.first_state !== data.task.first_state && html`
        <${Part} name="for real" text=${data.beside.first_state} />`}</section>
    ${data.turns.length > 0 && html`<section aria-label="Steps">
      <ol class="turns">${data.turns.map((turn, number) => html`
        <li key=${number} class=${`turn-of ${number === parted ? "parted" : ""}`}>
          <${Answer} turn=${turn} number=${number} parted=${number === parted} real=${data.beside?.steps[number]} beside=${data.beside && !data.beside.error}
            asked=${{ ...asked, actions: asked.actions.slice(0, number + 1) }} judged=${refresh} /></li>`)}</ol></section>`}
    <${Form} data=${data} asked=${asked} busy=${busy} error=${error} go=${go} back=${back} />`;
}

/** How it stands, and what to type next. */
function Form({ data, asked, busy, error, go, back }) {
  const [typed, setTyped] = useState("");
  const input = useRef(null);
  const form = useRef(null);
  const count = asked.actions.length;
  useEffect(() => {
    if (count === 0 || busy) return;
    form.current.scrollIntoView({ block: "nearest" });
    (input.current.disabled ? form.current.querySelector("button:not(:disabled)") : input.current).focus({ preventScroll: true });
  }, [count, busy]);
  const act = (event) => {
    event.preventDefault();
    if (!typed.trim() || busy) return;
    go({ actions: [...data.actions, typed.trim()] });
    setTyped("");
  };
  const over = OVER[data.over];
  return html`<section aria-label="What to do next">
    <div role="status">${busy && html`<p class="soft">Dreaming …</p>`}
      ${!busy && over && html`<p><strong>${over}</strong></p>`}
      ${!busy && data.beside && html`<p>${data.beside.error ? `The real environment cannot tell: ${data.beside.error}`
        : data.difference ? PARTED[data.difference.what].replace("N", data.difference.step + 1)
        : "So far dream and real environment agree."}</p>`}</div>
    ${error && html`<p class="notice" role="alert">${error}</p>`}
    <form class="act" ref=${form} onSubmit=${act}>
      <label>Action <input type="text" ref=${input} value=${typed} disabled=${Boolean(over)} autocomplete="off" spellcheck=${false}
        maxlength="100000" onInput=${(event) => setTyped(event.target.value)} /></label>
      <button type="submit" disabled=${Boolean(over) || busy}>Act</button>
      <button type="button" disabled=${count === 0} onClick=${back}>Step back</button>
      <button type="button" onClick=${() => go({ draw: asked.draw + 1, actions: [] })}>Dream it anew</button>
      <label class="check"><input type="checkbox" checked=${asked.beside} onChange=${(event) => go({ beside: event.target.checked })} />
        beside the real environment</label>
    </form>
    <p class="soft">${count} of at most ${data.max_steps} steps.</p></section>`;
}
