#!/usr/bin/env bash
# renderers 0.1.12: whether Qwen3.5's renderer opens a thought in the generation prompt hangs on the tokenizer's
# name_or_path, not on its chat template. "Qwen/Qwen3.5-2B" gets the empty thought that this checkpoint's template writes.
# The same tokenizer from a local folder, or of a fine-tune, gets an open <think>, whatever its template says.
# Seen: one tokenizer, two names, "<think>\n\n</think>\n\n" and "<think>\n" at the end of the prompt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    renderers==0.1.12 httpx==0.28.1 transformers==5.19.0 tokenizers==0.23.3 jinja2==3.1.6
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import files

from renderers import create_renderer
from renderers.configs import Qwen35RendererConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

letters = Tokenizer(models.BPE())
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
letters.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
template = next(f for f in files("trl") if f.name == "qwen3_5_nothink.jinja").locate()
tokenizer.chat_template = template.read_text(encoding="utf-8")
talk = [{"role": "user", "content": "hello"}]


def prompt(name):
    tokenizer.name_or_path = name
    while True:
        try:
            renderer = create_renderer(tokenizer, Qwen35RendererConfig())
        except AssertionError as error:  # it names a token that its vocabulary must have
            tokenizer.add_tokens([str(error).split("'")[1]], special_tokens=True)
        else:
            return tokenizer.decode(renderer.render_ids(talk, add_generation_prompt=True))


hub, local = prompt("Qwen/Qwen3.5-2B"), prompt("models/Qwen3.5-2B")
own = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
print(repr(hub[-40:]), repr(local[-40:]), sep="\n")
assert hub == own and hub.endswith("<think>\n\n</think>\n\n"), "the behaviour has changed"
assert local.endswith("assistant\n<think>\n"), "the behaviour has changed"
PY
echo "as described: a thought is opened or not by the name of the model"
