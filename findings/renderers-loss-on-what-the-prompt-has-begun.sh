#!/usr/bin/env bash
# renderers 0.1.12: where the generation prompt begins the thought, as Qwen3.6's does with "<think>\n", these tokens are
# still said to be sampled, and build_training_sample() gives them loss. sampled_mask is documented as what the model
# would have produced, and not what the template injects; a policy is so trained on tokens that no engine ever sampled.
# Seen: the prompt ends with "<think>\n", and the tokens with loss begin with "<think>\n" as well: 2 tokens of the prompt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    renderers==0.1.12 httpx==0.28.1 transformers==5.19.0 tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from renderers import create_renderer
from renderers.base import build_training_sample
from renderers.configs import Qwen36RendererConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

letters = Tokenizer(models.BPE())
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
letters.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
while True:
    try:
        renderer = create_renderer(tokenizer, Qwen36RendererConfig())
        break
    except AssertionError as error:  # it names a token that its vocabulary must have
        tokenizer.add_tokens([str(error).split("'")[1]], special_tokens=True)

user = {"role": "user", "content": "where is the key?"}
said = {"role": "assistant", "content": "go up", "reasoning_content": "It is up."}
prompt = renderer.render_ids([user], add_generation_prompt=True)
made = build_training_sample(renderer, [user, said])
assert made.token_ids[: len(prompt)] == prompt
inside = [t for t, m in zip(made.token_ids[: len(prompt)], made.loss_mask) if m]
trained = [t for t, m in zip(made.token_ids, made.loss_mask) if m]
print(repr(tokenizer.decode(prompt[-10:])), repr(tokenizer.decode(trained)), f"{len(inside)} of the prompt", sep="\n")
assert tokenizer.decode(inside) == "<think>\n" and len(inside) == 2, "the behaviour has changed"
PY
echo "as described: two tokens of the prompt carry loss"
