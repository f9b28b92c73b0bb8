#!/usr/bin/env bash
# LFM2's chat template of the 2.5 models, in TRL 1.16.0 (lfm2_2_5.jinja), rendered by transformers 5.19.0: a tool call is
# written as a call of Python with its text arguments in quotes, and quotes within a text are not escaped. A search for
# "John's book" so is no Python, and what ast or a parser of such calls makes of the model's own demonstrations is an error.
# Seen: find(title='John's book'), a SyntaxError, where the same call without the apostrophe parses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.19.0 jinja2==3.1.6
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ast
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


def written(title):
    text = rendered("lfm2_2_5", call({"title": title}))
    return text[text.index("[go(") + 1 : text.index(")]") + 1]


plain, quoted = written("book of John"), written("John's book")
print(plain, quoted, sep="\n")
ast.parse(plain)
try:
    ast.parse(quoted)
except SyntaxError as error:
    print(f"SyntaxError: {error}")
else:
    raise AssertionError("the behaviour has changed")
PY
echo "as described: the apostrophe ends the text"
