#!/usr/bin/env bash
# browsergym-webarenalite 0.14.3: WebArena-Lite's task 349 cannot be won. Its reference is {"must_include": "yjlou"}, a
# text, where the evaluator of the same package asserts a list. The other 37 tasks with must_include have lists, and
# WebArena itself has {"exact_match": "yjlou"} for 349. So the right answer raises an AssertionError.
# Seen: 37 lists, one text (349); "yjlou" raises AssertionError; with the same reference as a list it scores 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    nltk==3.9.2 playwright==1.44.0 beartype==0.12.0 gymnasium==1.2.2 numpy==2.2.6 requests==2.32.5 openai==2.8.1 \
    aiolimiter==1.2.1 pillow==12.0.0 text-generation==0.7.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    browsergym-webarenalite==0.14.3 libwebarena==0.0.4
cat > "$folder/seen.py" <<'PY'
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

for site in ("SHOPPING", "SHOPPING_ADMIN", "REDDIT", "GITLAB", "WIKIPEDIA", "MAP", "HOMEPAGE"):
    os.environ[site] = os.environ[f"WA_{site}"] = "http://localhost:7770"  # asked for at import; nobody goes there
site_packages = Path(importlib.util.find_spec("webarena").submodule_search_locations[0]).parent
folder = site_packages / "browsergym" / "webarenalite"
package = types.ModuleType("browsergym.webarenalite")  # without its __init__, which downloads a tokenizer's data
package.__path__ = [str(folder)]
sys.modules["browsergym.webarenalite"] = package
from browsergym.webarenalite.evaluators import StringEvaluator

tasks = {t["old_task_id"]: t for t in json.loads((folder / "test_webarena_lite.raw.json").read_text())}
asked = {n: (t["eval"]["reference_answers"] or {}).get("must_include") for n, t in tasks.items()}
texts = [number for number, reference in asked.items() if isinstance(reference, str)]
lists = [number for number, reference in asked.items() if isinstance(reference, list)]


def score(reference: object) -> str:
    config = Path(sys.argv[1]) / "task.json"
    config.write_text(json.dumps({"eval": {"reference_answers": {"must_include": reference}}}))
    try:
        return str(StringEvaluator()([{}, {"answer": "yjlou"}], str(config)))
    except AssertionError as error:
        return type(error).__name__


print(len(lists), texts, asked[349], score(asked[349]), score([asked[349]]))
PY
seen=$("$folder/venv/bin/python" -W ignore "$folder/seen.py" "$folder" 2> /dev/null)
echo "lists, texts, the reference, the score of the right answer, and with a list: $seen"
[ "$seen" = "37 [349] yjlou AssertionError 1.0" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
