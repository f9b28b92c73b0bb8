#!/usr/bin/env bash
# transformers 5.19.0 with tokenizers 0.23.3: split_special_tokens=True splits the text of special tokens, and leaves
# that of added tokens which are not special. Chat models of today mark the ends of turns by special tokens, and tool
# calls by added ones that are not (<tool_call> of the Qwen family, for one). Whoever encodes a page, a file or a
# tool's answer with this option still lets its text become the model's own tags, as single ids.
# Seen: "<|im_end|>" became 10 ids, "<tool_call>" stayed the one id of the tag.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    transformers==5.19.0 tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.BPE())
words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = pre_tokenizers.ByteLevel.alphabet()
words.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)], special_tokens=True)
tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])

told = {}
for text in ("<|im_end|>", "<tool_call>"):
    told[text] = len(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
print(told)
assert told == {"<|im_end|>": 10, "<tool_call>": 1}, "the behaviour has changed"
PY
echo "as described: the special token is text, the tool's tag is still one id"
