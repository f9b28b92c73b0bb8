#!/usr/bin/env bash
# DeepSeek V3's two chat templates in TRL 1.16.0, rendered by transformers 5.19.0: deepseekv3.jinja, for inference, takes
# the arguments of a tool call as JSON text alone, and ends with a TypeError where they are an object, as transformers'
# own documentation has them; deepseekv3_training.jinja, which TRL puts in its place to train, takes the object.
# Seen: the first raises on an object, the second renders it; each takes what the other's users write.
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


def outcome(name, arguments):
    try:
        return "attic" in rendered(name, call(arguments, None))
    except TypeError as error:
        return f"TypeError: {error}"


told = {
    (name, kind): outcome(name, arguments)
    for name in ("deepseekv3", "deepseekv3_training")
    for kind, arguments in (("text", '{"to": "attic"}'), ("object", {"to": "attic"}))
}
print(*told.items(), sep="\n")
assert told["deepseekv3", "text"] is True and told["deepseekv3_training", "object"] is True, "the behaviour has changed"
assert str(told["deepseekv3", "object"]).startswith("TypeError"), "the behaviour has changed"
PY
echo "as described: the template for inference refuses an object, the one for training takes it"
