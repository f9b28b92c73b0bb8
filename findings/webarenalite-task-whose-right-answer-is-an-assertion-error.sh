#!/usr/bin/env bash
# browsergym-webarenalite 0.14.3: WebArena-Lite's task 349 cannot be won. Its reference answer is {"must_include": "yjlou"},
# a text, where the evaluator of the same package asserts a list; the other 37 tasks with must_include have lists, and
# WebArena itself has {"exact_match": "yjlou"} for 349. The right answer raises an AssertionError, which the task's
# validate() takes for a score of 0.
# Seen: 37 lists, 1 text: 349; "yjlou" raises AssertionError; the same reference as a list scores 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    browsergym-webarenalite==0.14.3 libwebarena==0.0.4
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    beartype==0.22.9 nltk==3.9.2 playwright==1.44.0 numpy==2.2.6 gymnasium==1.2.2 pillow==12.0.0 requests==2.32.5 \
    openai==2.8.1 tiktoken==0.12.0 aiolimiter==1.2.1
cat > "$folder/seen.py" <<'PY'
import importlib.util
import json
import sys
import types
from pathlib import Path

package = Path(importlib.util.find_spec("webarena").submodule_search_locations[0]).parent / "browsergym" / "webarenalite"
tasks = json.loads((package / "test_webarena_lite.raw.json").read_text())
given = {t["old_task_id"]: t["eval"]["reference_answers"]["must_include"] for t in tasks if "must_include" in (t["eval"]["reference_answers"] or {})}
texts = [number for number, reference in given.items() if isinstance(reference, str)]
print(len(given) - len(texts), texts)
PY
"$folder/venv/bin/python" "$folder/seen.py"
