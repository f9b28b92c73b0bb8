#!/usr/bin/env bash
# renderers 0.1.12: DefaultRenderer.render() tells of each token which message it belongs to. Under a chat template that
# drops the thoughts of earlier turns, as Qwen3's does (TRL 1.16.0, qwen3.jinja), message_indices is longer than
# token_ids, and gives the last messages' tokens to others. The ids themselves are right, and there is no warning.
# This renderer is what every fine-tune and every name that the library does not know gets.
# Seen: 3 messages, 54 ids, 194 indices; no id is said to be of the last message, which is there.
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
from renderers.configs import DefaultRendererConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

letters = Tokenizer(models.BPE())
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
letters.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
template = next(f for f in files("trl") if f.name == "qwen3.jinja").locate()
tokenizer.chat_template = template.read_text(encoding="utf-8")

talk = [
    {"role": "user", "content": "where is the key?"},
    {"role": "assistant", "content": "up", "reasoning_content": "The key is not here, so it must be upstairs. " * 3},
    {"role": "user", "content": "thanks"},
]
made = create_renderer(tokenizer, DefaultRendererConfig()).render(talk)
of_last = [token for token, message in zip(made.token_ids, made.message_indices) if message == 2]
print(len(made.token_ids), "ids,", len(made.message_indices), "indices, of the last message:", len(of_last))
assert tokenizer.decode(made.token_ids).count("thanks") == 1
assert len(made.message_indices) > len(made.token_ids) and not of_last, "the behaviour has changed"
PY
echo "as described: more indices than ids, and none for the last message"
