#!/usr/bin/env bash
# browsergym-miniwob 0.14.3 with the pages of miniwob 1.1.0: a right answer that is given by a link with href="#" is
# worth 0. The click adds "#" to the address, and the task compares addresses before it asks the page for its reward:
# "invalid url, terminating task", while the page itself says reward 1, done. No agent can win search-engine so: its
# results are such links.
# Seen: BrowserGym 0, the episode over, "invalid url, terminating task"; the page [1, true].
# Needs a Chromium or Chrome on PATH (or its path in CHROMIUM).
set -euo pipefail
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    browsergym-core==0.14.3 browsergym-miniwob==0.14.3 miniwob==1.1.0
# The folder that Playwright looks into, with the system's browser in it.
where=$("$folder/venv/bin/python" - <<'PY'
from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    print("/".join(playwright.chromium.executable_path.split("/")[-3:]))
PY
)
mkdir -p "$folder/browsers/$(dirname "$where")"
ln -s "$browser" "$folder/browsers/$where"
export PLAYWRIGHT_BROWSERS_PATH="$folder/browsers"
cd "$folder"
cat > seen.py <<'PY'
import json
import os
import re
from pathlib import Path

import miniwob

os.environ["MINIWOB_URL"] = (Path(miniwob.__file__).parent / "html" / "miniwob").as_uri() + "/"
import browsergym.miniwob
import gymnasium

env = gymnasium.make("browsergym/miniwob.search-engine").unwrapped
observation, _ = env.reset(seed=2)
word = re.search('"(.*?)"', observation["goal"])[1]
place = int(re.search(r"(\d+)(st|nd|rd|th) search", observation["goal"])[1])


def id_of(selector: str, index: int = 0) -> str:
    return env.page.evaluate(f"document.querySelectorAll('{selector}')[{index}].getAttribute('bid')")


env.step(f"fill('{id_of('#search-text')}', '{word}')")
env.step(f"click('{id_of('#search')}')")
for _ in range((place - 1) // 3):
    env.step(f"click('{id_of('#pagination li.next a')}')")
_, reward, over, _, info = env.step(f"click('{id_of('#page-content a', (place - 1) % 3)}')")
page = env.page.evaluate("[WOB_RAW_REWARD_GLOBAL, WOB_DONE_GLOBAL]")
print(json.dumps([reward, over, info["task_info"], env.page.url[-1], page]))
env.close()
PY
seen=$("$folder/venv/bin/python" seen.py 2> /dev/null)
echo "reward, over, task_info, end of the address, what the page says: $seen"
[ "$seen" = '[0, true, {"error": "invalid url, terminating task"}, "#", [1, true]]' ] ||
    { echo "the behaviour has changed"; exit 1; }
echo "as described"
