#!/usr/bin/env bash
# DeepSeek R1 distill's chat template, in TRL 1.16.0 (deepseek_r1_distill.jinja), rendered by transformers 5.19.0: the
# tool calls of a message are rendered where its content is None, and left out without a word where it is an empty text.
# Both are what clients send for a message that has calls alone; a data set with "" is tuned on empty answers.
# Seen: with None the call is there, with "" the turn is empty.
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


told = {str(content): rendered("deepseek_r1_distill", call('{"to": "attic"}', content)) for content in (None, "")}
print(told)
assert "attic" in told["None"] and "attic" not in told[""], "the behaviour has changed"
PY
echo "as described: the call is rendered beside None, and gone beside an empty text"
