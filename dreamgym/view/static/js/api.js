// Asking the server, once or as long as a run grows.

import { useEffect, useState } from "../vendor/preact-htm.js";
import { held, still } from "./still.js";

const PULSE_MS = { running: 2000, other: 15000 };

export const get = async (path, signal) => (still ? held(path) : ask(path, { signal }));

/** What a page may do beside reading: send JSON. */
export const post = (path, body, signal) => ask(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

async function ask(path, asked) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, asked);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: `dreamgym view` has ended, or the network is gone.");
  }
  if (answer.status === 403) throw new Error(await answer.text());
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

/** { data, error, loading } of a path; asked anew when the path or `changes` does, with the old answer meanwhile. */
export function useGet(path, changes = 0) {
  const [state, setState] = useState({ path: "", data: null, error: "", loading: true });
  useEffect(() => {
    const stop = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    get(path, stop.signal).then(
      (data) => setState({ path, data, error: "", loading: false }),
      (error) => error.name !== "AbortError"
        && setState((old) => ({ path, data: old.path === path ? old.data : null, error: error.message, loading: false })),
    );
    return () => stop.abort();
  }, [path, changes]);
  return state;
}

/** How often a run has grown since its page was opened: asked again and again, while the page is seen. */
export function usePulse(run) {
  const [changes, setChanges] = useState(0);
  useEffect(() => {
    if (!run || still) return undefined;
    let timer;
    let known = null;
    const stop = new AbortController();
    const beat = async () => {
      if (!document.hidden) {
        try {
          const now = await get(`runs/${encodeURIComponent(run)}/pulse`, stop.signal);
          if (known && (now.version !== known.version || now.state !== known.state)) setChanges((count) => count + 1);
          known = now;
        } catch (error) {
          if (error.name === "AbortError") return; // any other is told by what the page asks for itself
        }
      }
      timer = setTimeout(beat, PULSE_MS[known?.state] || PULSE_MS.other);
    };
    const seen = () => { clearTimeout(timer); beat(); };
    beat();
    document.addEventListener("visibilitychange", seen);
    return () => { stop.abort(); clearTimeout(timer); document.removeEventListener("visibilitychange", seen); };
  }, [run]);
  return changes;
}
