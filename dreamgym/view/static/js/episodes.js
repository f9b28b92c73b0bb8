// The table of episodes: filters, sorting, pages.

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { useGet } from "./api.js";
import { Filters } from "./filters.js";
import { figure, outcome, percent, whole } from "./format.js";
import { link } from "./route.js";
import { still } from "./still.js";

const COLUMNS = [
  ["trajectory_id", "Episode", true],
  ["iteration", "Iteration", false],
  ["success", "Outcome", true],
  ["steps", "Steps", false],
  ["world", "World", true],
  ["source", "Player", true],
  ["task_id", "Task", true],
  ["reward", "Reward", false],
  ["malformed", "No action", false],
];
const PAGE = 50;

export function Episodes({ run, params, changes }) {
  const [round, setRound] = useState(0);
  const asked = useGet(`runs/${encodeURIComponent(run)}/episodes?${params}`, `${changes} ${round}`);
  const set = (wanted) => {
    const next = { ...Object.fromEntries(params), offset: "", ...wanted };
    location.replace(link(run, "episodes", "", next));
  };
  const { data, error } = asked;
  const searching = Boolean(data) && data.search.scanned < data.search.files;
  useEffect(() => { if (searching && !asked.loading) setRound((now) => now + 1); }, [data, asked.loading]);
  return html`
    <h1>Episodes</h1>
    <p class="sub" role="status">${told(data, searching)}</p>
    ${!still && html`<section aria-label="Filters"><${Filters} params=${params} set=${set} facets=${data ? data.facets : {}} /></section>`}
    ${error && html`<section><p class="notice" role="alert">${error}</p></section>`}
    ${data && data.problems.map((problem) => html`<section><p class="notice">${problem}</p></section>`)}
    ${data && html`<section aria-label="Episodes">
      ${!still && html`<${Pages} data=${data} set=${set} />`}<${List} run=${run} data=${data} params=${params} set=${set} />
    </section>`}`;
}

function told(data, searching) {
  if (!data) return "Reading …";
  if (still) return `${whole(data.rows.length)} of ${whole(data.total)} episodes, chosen from the first and the last iteration; \`dreamgym view\` shows all.`;
  const share = data.matching ? `, ${percent(data.won / data.matching, 1)} of them won` : "";
  const words = `${whole(data.matching)} of ${whole(data.total)} episodes${share}`;
  return searching ? `${words}; searched ${data.search.scanned} of ${data.search.files} files …` : words;
}

function Pages({ data, set }) {
  const end = Math.min(data.offset + PAGE, data.matching);
  return html`<div class="pages">
    <span class="soft">${data.matching ? `${whole(data.offset + 1)}–${whole(end)} of ${whole(data.matching)}` : "none"}</span>
    <span class="turn">
      <button type="button" disabled=${data.offset === 0}
        onClick=${() => set({ offset: Math.max(data.offset - PAGE, 0) || "" })}>Previous</button>
      <button type="button" disabled=${end >= data.matching} onClick=${() => set({ offset: data.offset + PAGE })}>Next</button>
    </span></div>`;
}

function List({ run, data, params, set }) {
  const sort = params.get("sort") || "iteration";
  const order = params.get("order") || "down";
  const turn = (name) => set({ sort: name, order: sort === name && order === "down" ? "up" : "down" });
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of episodes"><table class="list">
    <caption class="hidden-text">Episodes; the buttons in the head sort them</caption>
    <thead><tr>${COLUMNS.map(([name, label, words]) => html`
      <th key=${name} scope="col" class=${words ? "words" : ""}
        aria-sort=${sort === name ? (order === "down" ? "descending" : "ascending") : undefined}>
        <button type="button" onClick=${() => turn(name)}>${label}${sort === name ? (order === "down" ? " ↓" : " ↑") : ""}</button>
      </th>`)}</tr></thead>
    <tbody>${data.rows.map((row) => html`<${Row} key=${row.trajectory_id} run=${run} row=${row} set=${set} />`)}</tbody>
  </table></div>`;
}

function Row({ run, row, set }) {
  const came = outcome(row);
  return html`<tr>
    <th scope="row" class="mono"><a href=${link(run, "episodes", row.trajectory_id)}>${row.trajectory_id}</a></th>
    <td>${row.iteration < 0 ? "–" : row.iteration}</td>
    <td class="words"><span class=${came === "won" ? "good" : came === "failed" ? "bad" : ""}
      title=${row.error}>${came}</span>${row.retried && html` <span class="soft">again</span>`}</td>
    <td>${row.steps}</td>
    <td class="words">${row.world}</td>
    <td class="words">${row.source}</td>
    <td class="words"><button type="button" class="clip plain" title=${`Only this task: ${row.instruction}`}
      onClick=${() => set({ task: row.task_id })}>${row.instruction || row.task_id}</button>
      ${row.task_origin === "generated" && html` <span class="soft">invented</span>`}</td>
    <td>${figure(row.reward)}</td><td>${row.malformed || ""}</td>
  </tr>`;
}
