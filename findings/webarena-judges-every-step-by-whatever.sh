#!/usr/bin/env bash
# browsergym-webarena 0.14.3 with libwebarena 0.0.4: a task whose answer an LLM judges asks the judge after EVERY step of
# the browser, also after a click, and what it has judged is then the answer "whatever", which nobody gave. An episode of
# 30 steps pays for 30 judgements in place of 1, WebArena's own script for 1. And a judge that gives no verdict (an empty
# answer of a thinking model that ran out of tokens, say) counts as 0.0 at the answer, like a wrong one, without a word.
# Seen: task 8, 3 steps without an answer: 3 requests, each for "whatever", score 0, not done; then an answer of the
# agent with the judge silent: (0.0, done); with the verdict "correct": (1.0, done).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    browsergym-core==0.14.3 nltk==3.9.2 playwright==1.44.0 beartype==0.12.0 gymnasium==1.2.2 numpy==2.2.6 requests==2.32.5 \
    openai==2.8.1 aiolimiter==1.2.1 pillow==12.0.0 text-generation==0.7.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    browsergym-webarena==0.14.3 libwebarena==0.0.4
cat > "$folder/seen.py" <<'PY'
import http.server
import importlib.util
import json
import os
import sys
import threading
import types
from pathlib import Path

VERDICTS, ASKED = ["incorrect", "incorrect", "incorrect", "", "correct"], []


class Judge(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ASKED.append(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": VERDICTS[len(ASKED) - 1]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        said = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}", "OPENAI_API_KEY": "none"}
for site in ("SHOPPING", "SHOPPING_ADMIN", "REDDIT", "GITLAB", "WIKIPEDIA", "MAP", "HOMEPAGE"):
    os.environ[site] = os.environ[f"WA_{site}"] = "http://127.0.0.1:7770"  # asked for at import; nobody goes there
site_packages = Path(importlib.util.find_spec("webarena").submodule_search_locations[0]).parent
package = types.ModuleType("browsergym.webarena")  # without its __init__, which downloads a tokenizer's data
package.__path__ = [str(site_packages / "browsergym" / "webarena")]
sys.modules["browsergym.webarena"] = package
from browsergym.webarena.task import GenericWebArenaTask
from webarena.evaluation_harness.evaluators import evaluator_router
from webarena.evaluation_harness.helper_functions import PseudoPage

task = GenericWebArenaTask(seed=0, task_id=8)
config = Path(sys.argv[1]) / "task.json"
config.write_text(json.dumps(task.task_configs[0]))
task.config_file, task.evaluator = str(config), evaluator_router(str(config))
page = PseudoPage(None, "http://127.0.0.1:7770")  # the package's own stand-in; a task judged by its answer reads no page
page.context = types.SimpleNamespace(pages=[page])
steps = [task.validate(page, [])[:2] for _ in range(3)]
whatever = sum("student answer: whatever\n" in asked for asked in ASKED)
answer = [{"role": "assistant", "message": "There is no airport within five kilometres."}]
silent, correct = (task.validate(page, answer)[:2] for _ in range(2))
print(len(steps), whatever, steps[-1], silent, correct)
PY
seen=$("$folder/venv/bin/python" -W ignore "$folder/seen.py" "$folder" 2> "$folder/err") || { cat "$folder/err"; exit 1; }
echo "steps, judgements of 'whatever', the last of these steps, an answer with a silent judge, with 'correct': $seen"
[ "$seen" = "3 3 (0.0, False) (0.0, True) (1.0, True)" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
