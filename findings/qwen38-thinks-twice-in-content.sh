#!/usr/bin/env bash
# Qwen3.8's chat template, in TRL 1.16.0 (qwen3_8.jinja), rendered by transformers 5.19.0: a thought that stands in the
# content, "<think>\n…\n</think>\n\n…", is not found there, and an empty thought is written before it. The templates of
# Qwen3, 3.5 and 3.6 do find it, so demonstrations and histories that served them now show a model two thoughts a turn.
# Seen: one <think> with qwen3, qwen3_5_think and qwen3_6, two with qwen3_8; one again where it is in reasoning_content.
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


def thoughts(name, message):
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", **message}]
    text = render_jinja_template([talk], chat_template=template(name), bos_token="", eos_token="<eos>")[0][0]
    return text.count("<think>")


inline = {"content": "<think>\nIt is up.\n</think>\n\ngo up"}
apart = {"content": "go up", "reasoning_content": "It is up."}
told = {name: thoughts(name, inline) for name in ("qwen3", "qwen3_5_think", "qwen3_6", "qwen3_8")}
told["qwen3_8, reasoning_content"] = thoughts("qwen3_8", apart)
print(told)
assert list(told.values()) == [1, 1, 1, 2, 1], "the behaviour has changed"
PY
echo "as described: an empty thought stands before the one in the content"
