"""What the web environments cost and keep, on MiniWoB++ in a real Chromium.

    .venv/bin/python benchmarks/web.py pages     # what experts need, tokens to read and to write
    .venv/bin/python benchmarks/web.py pace      # steps/s, over BrowserGym's own
    .venv/bin/python benchmarks/web.py memory    # 200 episodes in one process

Needs the extras `web` and `smollm2`, whose tokenizer counts. The pages are of the dev fold.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from compare import smollm2_gguf
from record import ROOT, merge

from dreamgym.envs.web.browser import executable
from dreamgym.envs.web.env import BrowserGym
from dreamgym.envs.web.experts import known_tasks
from dreamgym.models.abridged import abridge, unabridge
from dreamgym.runtime.processes import memory_of

RESULTS = ROOT / "docs" / "results" / "web.json"
PAGES = 5
"""Pages of each task."""
ROUNDS = 5
MOST_STEPS = 15


def play(env: BrowserGym, task: str, seed: int) -> tuple[list[str], bool, int, int]:
    """An episode of the expert: its states, whether it won, the ids that it needed, and those of them on the page."""
    states, needed, kept, success = [str(env._reset(task, seed)["state"])], 0, 0, False
    for _ in range(MOST_STEPS):
        action = env.expert_action()
        if not action:
            break
        needed += 1
        kept += any(line.split()[:1] == [action.split("'")[1]] for line in states[-1].splitlines())
        state, _, ended, _, info = env.step(action)
        states.append(state)
        success = info["success"]
        if ended:
            break
    return states, success, needed, kept


def pages() -> dict[str, float]:
    """What the text of pages keeps of what is needed, and how long it is, whole and by what changed."""
    from transformers import AutoTokenizer

    file = smollm2_gguf()
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)

    def tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    env = BrowserGym()
    won = needed = kept = whole = edits = count = 0
    for task in known_tasks():
        for seed in range(1_000, 1_000 + PAGES):
            states, success, asked, there = play(env, task, seed)
            won, needed, kept, count = won + success, needed + asked, kept + there, count + 1
            for before, after in itertools.pairwise(states):
                written = abridge(before, after)
                assert unabridge(before, written) == after
                whole, edits = whole + tokens(after), edits + tokens(written)
        print(task, won, "of", count, "won; tokens", whole, "->", edits, flush=True)
    env.close()
    return {
        "expert_success": round(won / count, 3),
        "needed_elements_kept": round(kept / needed, 4),
        "written_tokens_whole_over_edits": round(whole / edits, 2),
        "episodes": count,
    }


def pace() -> dict[str, float]:
    """Seconds of a step and of a reset, by turns: here, and in BrowserGym as it comes, in a process each."""
    import subprocess

    code = Path(__file__).resolve()
    rows: dict[str, list[tuple[float, float]]] = {"here": [], "own": []}
    for turn in range(ROUNDS):
        for kind in ("here", "own") if turn % 2 == 0 else ("own", "here"):
            told = subprocess.run([sys.executable, code, f"--{kind}"], capture_output=True, text=True, check=True)
            step, reset = map(float, told.stdout.split()[-2:])
            rows[kind].append((step, reset))
            print(kind, step, reset, flush=True)
    step = {kind: statistics.median(s for s, _ in found) for kind, found in rows.items()}
    reset = {kind: statistics.median(r for _, r in found) for kind, found in rows.items()}
    return {
        "chromium_steps_per_s": round(1 / step["here"], 2),
        "chromium_steps_per_s_over_browsergyms": round(step["own"] / step["here"], 2),
        "reset_seconds": round(reset["here"], 2),
        "resets_per_s_over_browsergyms": round(reset["own"] / reset["here"], 2),
    }


TASK, STEPS, RESETS = "miniwob.click-checkboxes", 8, 3


def clock(reset: Callable[[int], Any], boxes: Callable[[Any], list[str]], step: Callable[[str], Any]) -> None:
    """Print the medians of a step, a click on a box, and of a reset after the first, in seconds."""
    steps, resets = [], []
    for seed in range(RESETS + 1):
        begin = time.perf_counter()
        begun = reset(seed)
        resets.append(time.perf_counter() - begin)
        ids = boxes(begun)
        for index in range(STEPS):
            begin = time.perf_counter()
            step(f"click('{ids[index % len(ids)]}')")
            steps.append(time.perf_counter() - begin)
    print(statistics.median(steps), statistics.median(resets[1:]))


def here() -> None:
    """Seconds of a step and of a reset after the first, here."""
    env = BrowserGym(tasks=[TASK])

    def boxes(_: object) -> list[str]:
        return [element.id for element in env._page if element.role == "checkbox"]

    clock(lambda seed: env._reset(TASK, seed), boxes, env.step)
    env.close()


def own() -> None:
    """The same of BrowserGym as it comes; only the browser's path is given, to both of its browsers."""
    from unittest import mock

    import browsergym.miniwob  # noqa: F401 - registers the tasks
    import gymnasium
    from playwright.sync_api import BrowserType, sync_playwright

    from dreamgym.envs.web.browser import _places

    _places("miniwob", ())
    with sync_playwright() as playwright:
        path = executable("", playwright)
    launch = BrowserType.launch
    with mock.patch.object(BrowserType, "launch", lambda self, **how: launch(self, executable_path=path, **how)):
        env = gymnasium.make(f"browsergym/{TASK}").unwrapped

        def boxes(begun: Any) -> list[str]:
            tree = begun[0]["axtree_object"]["nodes"]
            return [node["browsergym_id"] for node in tree if node["role"]["value"] == "checkbox"]

        clock(lambda seed: env.reset(seed=seed), boxes, env.step)
        env.close()


def memory() -> dict[str, float]:
    """Memory (PSS) of the process and all it has started, after 20 episodes and after 200."""
    env = BrowserGym()
    found = {}
    for episode in range(1, 201):
        play(env, known_tasks()[episode % len(known_tasks())], episode)
        if episode in (20, 100, 200):
            process = psutil.Process(env._browser._process.pid)  # type: ignore[union-attr]
            found[episode] = sum(map(memory_of, [process, *process.children(recursive=True)])) / 2**20
            print(episode, f"{found[episode]:.0f} MiB", flush=True)
    env.close()
    return {"memory_mib_after_20": round(found[20]), "memory_end_over_first_20": round(found[200] / found[20], 3)}


if __name__ == "__main__":
    if sys.argv[1] in ("--here", "--own"):
        {"--here": here, "--own": own}[sys.argv[1]]()
    else:
        figures = {"pages": pages, "pace": pace, "memory": memory}[sys.argv[1]]()
        merge(RESULTS, f".venv/bin/python benchmarks/web.py {sys.argv[1]}", figures)
