#!/usr/bin/env bash
# transformers 5.19.0: AutoTokenizer imports PyTorch to load a tokenizer that needs none of it.
# A checkpoint whose tokenizer_config.json names the generic class (TokenizersBackend) loads through that class in
# about 70 MiB; through AutoTokenizer, with PyTorch and scikit-learn installed, in over 400 MiB, with sklearn, SciPy
# and accelerate imported where they are installed. What is loaded is the same class and gives the same ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.19.0 tokenizers==0.23.3 scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.BPE())
words.pre_tokenizer = pre_tokenizers.ByteLevel()
words.train_from_iterator(["go north to the kitchen"] * 9, trainers.BpeTrainer(vocab_size=300))
PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("model")
PY
cat > load.py <<'PY'
import json, resource, sys
import transformers

loaded = getattr(transformers, sys.argv[1]).from_pretrained("model")
print(json.dumps({
    "class": type(loaded).__name__,
    "ids": loaded("go to the kitchen")["input_ids"],
    "imported": [name for name in ("torch", "sklearn", "scipy") if name in sys.modules],
    "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
PY
for loader in PreTrainedTokenizerFast AutoTokenizer; do
    "$folder/venv/bin/python" load.py "$loader" | tee "$loader.json"
done
"$folder/venv/bin/python" - <<'PY'
import json

plain, auto = (json.load(open(f"{name}.json")) for name in ("PreTrainedTokenizerFast", "AutoTokenizer"))
assert (plain["class"], plain["ids"]) == (auto["class"], auto["ids"]), "they no longer load the same"
assert plain["imported"] == [] and "torch" in auto["imported"], "the imports have changed"
assert auto["MiB"] > 3 * plain["MiB"], "the memory has changed"
PY
echo "as described: the same tokenizer, with PyTorch or without"
