// The frame of the page: which run, which view, and the way between them.

import { html, render, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { useGet, usePulse } from "./api.js";
import { Buffer } from "./buffer.js";
import { Compare } from "./compare.js";
import { Episode } from "./episode.js";
import { Episodes } from "./episodes.js";
import { Overview } from "./overview.js";
import { Asked } from "./parts.js";
import { Play } from "./play.js";
import { link, parse } from "./route.js";
import { Runs } from "./runs.js";
import { still } from "./still.js";
import { Tasks } from "./tasks.js";

const PAGES = [["overview", "Overview"], ["episodes", "Episodes"], ["tasks", "Tasks"], ...(still ? [] : [["buffer", "Buffer"]])];

const pagesOf = (run, runs) => [...PAGES, ...(runs.some((one) => one.key === run && one.play) ? [["play", "Play"]] : [])];

function useRoute() {
  const [route, setRoute] = useState(parse(location.hash));
  useEffect(() => {
    const moved = () => setRoute(parse(location.hash));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return route;
}

function App() {
  const given = useRoute();
  const asked = useGet("runs");
  const only = asked.data?.length === 1 ? asked.data[0].key : "";
  const route = given.page === "runs" && only ? { ...given, run: only, page: "overview" } : given;
  const changes = usePulse(route.run);
  const main = useRef(null);
  useEffect(() => {
    document.title = [route.id, route.page, route.run, "dreamgym"].filter(Boolean).join(" · ");
  }, [route.id, route.page, route.run]);
  const skip = (event) => { event.preventDefault(); main.current.focus(); };
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to content</a>
    <header class="bar"><div class="bar-inner">
      <a class="brand" href="#/">dream<span>gym</span></a>
      <${Choice} runs=${asked.data || []} route=${route} />
      <nav aria-label="Pages"><ul class="tabs">
        ${route.run && pagesOf(route.run, asked.data || []).map(([page, label]) => html`<li key=${page}>
          <a href=${link(route.run, page)} aria-current=${route.page === page ? "page" : undefined}>${label}</a></li>`)}
        ${(asked.data || []).length > 1 && html`<li><a href=${`#/compare${route.run ? `?run=${encodeURIComponent(route.run)}` : ""}`}
          aria-current=${route.page === "compare" ? "page" : undefined}>Compare</a></li>`}
      </ul></nav></div></header>
    <main id="content" ref=${main} tabindex="-1"><${Asked} asked=${asked}>${(runs) => html`
      <${View} runs=${runs} route=${route} changes=${changes} />`}<//></main>`;
}

function Choice({ runs, route }) {
  if (runs.length < 2 || !route.run) return null;
  const go = (event) => { location.hash = link(event.target.value, route.page); };
  return html`<label><span class="hidden-text">Run</span>
    <select value=${route.run} onChange=${go}>${runs.map((run) => html`<option value=${run.key}>${run.key}</option>`)}</select></label>`;
}

function View({ runs, route, changes }) {
  const { run, page, id, params } = route;
  if (page === "compare") return html`<${Compare} runs=${runs} params=${params} />`;
  if (!run) return html`<${Runs} runs=${runs} />`;
  if (page === "episodes" && id) return html`<${Episode} key=${`${run} ${id}`} run=${run} id=${id} changes=${changes} />`;
  if (page === "episodes") return html`<${Episodes} key=${run} run=${run} params=${params} changes=${changes} />`;
  if (page === "tasks") return html`<${Tasks} key=${run} run=${run} params=${params} changes=${changes} />`;
  if (page === "play") return html`<${Play} key=${run} run=${run} id=${id} params=${params} />`;
  if (page === "buffer") return html`<${Buffer} key=${run} run=${run} params=${params} changes=${changes} />`;
  return html`<${Overview} key=${run} run=${run} changes=${changes} />`;
}

render(html`<${App} />`, document.getElementById("page"));
