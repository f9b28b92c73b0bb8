// Answers from what was written into the page itself: a report is a still of the view, without a server.

const written = document.getElementById("still");
export const still = written ? JSON.parse(written.textContent) : null;

const LACKS = "This report has no more of the run; `dreamgym view` shows all of it.";

/** The answer to a path; of the table of episodes those of one task, sorted. */
export function held(path) {
  const [plain, search] = path.split("?");
  const body = still[decodeURIComponent(plain)];
  if (!body) throw new Error(LACKS);
  return body.rows ? { ...body, rows: chosen(body.rows, new URLSearchParams(search)) } : body;
}

function chosen(rows, params) {
  const name = params.get("sort") || "iteration";
  const way = params.get("order") === "up" ? 1 : -1;
  const task = params.get("task");
  const sign = (a, b) => (a[name] > b[name]) - (a[name] < b[name]);
  return rows.filter((row) => !task || row.task_id === task).sort((a, b) => way * sign(a, b));
}
