#!/usr/bin/env bash
# Gemma 4's chat templates, in TRL 1.16.0 (gemma4_v4.jinja and gemma4_v5.jinja), rendered by transformers 5.19.0: one writes
# the null argument of a tool call as Python does, None, and true as JSON does, in the same call; the other writes null.
# Whoever reads a call back by one grammar, or tunes on one revision and serves the other, has another language there.
# Seen: v4 wrote {flag:true,to:None}, v5 {flag:true,to:null}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.19.0 jinja2==3.1.6
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import files

from transformers.utils.chat_template_utils import render_jinja_template


def template(name):
    return next(f for f in files("trl") if f.name == f"{name}.jinja").locate().read_text(encoding="utf-8")


def call(arguments, content=""):
    function = {"name": "go", "arguments": arguments}
    return {"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": function}]}


def rendered(name, message):
    talk = [{"role": "user", "content": "hello"}, message]
    return render_jinja_template([talk], chat_template=template(name), bos_token="", eos_token="<eos>")[0][0]


told = {name: rendered(name, call({"flag": True, "to": None})) for name in ("gemma4_v4", "gemma4_v5")}
print(*(text[text.index("call:") :] for text in told.values()), sep="\n")
assert "call:go{flag:true,to:None}" in told["gemma4_v4"], "the behaviour has changed"
assert "call:go{flag:true,to:null}" in told["gemma4_v5"], "the behaviour has changed"
PY
echo "as described: one revision writes None, the other null"
